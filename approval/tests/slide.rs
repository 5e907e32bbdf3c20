//! The kernel somewhere else: every field as Linux's own loader would make it, and nothing else changed
#[path = "synthetic/mod.rs"]
mod synthetic;

use secvisor_approval::PAGE;
use secvisor_approval::build::{Builder, FixDef, RegionDef, SiteDef, TemplateDef, VariantDef, seal};
use secvisor_approval::view::{self, Error, Opened};
use secvisor_approval::wire::*;
use synthetic::{LINK, SPAN, Spec};

/// The kernel lies where it was linked.
const SLIDE: u64 = 0;
const ALIGN: u64 = 0x20_0000;
/// From the end of the image to the modules' range.
const ROOM: u64 = (synthetic::MODULES.start - LINK - SPAN) & !(ALIGN - 1);

/// The kernel's image as a loader puts it into memory.
fn image(file: &mut [u8]) -> Vec<u8> {
    let (launch, view, pages) = view::open(file).unwrap();
    let mut image = vec![0; view.info.image_span as usize];
    for run in launch.runs.iter() {
        let bytes = &launch.data[run.data_offset as usize..][..run.len as usize];
        image[run.image_offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    for region in view.regions.iter().take_while(|r| r.module == NONE) {
        let at = (region.base - view.info.image_va) as usize;
        for (page, bytes) in (region.first_page..).zip(image[at..].chunks_exact_mut(PAGE).take(region.pages as usize)) {
            bytes.copy_from_slice(pages.get(page, &mut [0; PAGE]).unwrap());
        }
    }
    image
}

/// `handle_relocations()` of Linux 6.1, arch/x86/boot/compressed/misc.c: the table is walked down from the end of the
/// file, each entry the sign-extended low half of a link address.
fn handle_relocations(image: &mut [u8], table: &[i32], delta: u64) {
    let place = |entry: i32| (entry as i64 as u64 - LINK) as usize;
    let mut entries = table.iter().rev();
    for entry in entries.by_ref().take_while(|e| **e != 0) {
        let field = &mut image[place(*entry)..][..4];
        let value = u32::from_le_bytes(field.try_into().unwrap()).wrapping_add(delta as u32);
        field.copy_from_slice(&value.to_le_bytes());
    }
    for entry in entries.by_ref().take_while(|e| **e != 0) {
        let field = &mut image[place(*entry)..][..4];
        let value = i32::from_le_bytes(field.try_into().unwrap()).wrapping_sub(delta as i32);
        field.copy_from_slice(&value.to_le_bytes());
    }
    for entry in entries.take_while(|e| **e != 0) {
        let field = &mut image[place(*entry)..][..8];
        let value = u64::from_le_bytes(field.try_into().unwrap()).wrapping_add(delta);
        field.copy_from_slice(&value.to_le_bytes());
    }
}

/// The table Linux's build would append to this kernel.
fn table(spec: &Spec) -> Vec<i32> {
    let regions = [synthetic::TEXT, synthetic::FAR_TEXT, synthetic::INIT];
    let all = regions.iter().flat_map(|r| {
        let base = spec.regions[*r].base;
        spec.relocs(*r).into_iter().map(move |(offset, kind)| (base + offset, kind))
    });
    let all: Vec<_> = all.chain([(synthetic::POINTER, RelocKind::Abs64)]).collect();
    let list = |kind| all.iter().filter(move |f| f.1 == kind).map(|f| f.0 as i32);
    let mut table = vec![0];
    table.extend(list(RelocKind::Abs64));
    table.push(0);
    table.extend(list(RelocKind::Inverse32));
    table.push(0);
    table.extend(list(RelocKind::Abs32));
    table
}

fn slid(by: u64) -> Vec<u8> {
    let mut file = Spec::new().file();
    Opened::new(&mut file).unwrap().slide(by);
    seal(&mut file);
    file
}

#[test]
fn fields_become_what_linux_makes_of_them() {
    let spec = Spec::new();
    let linked = image(&mut spec.file());
    for by in [0, ALIGN, 0x2b60_0000, ROOM] {
        let mut want = linked.clone();
        handle_relocations(&mut want, &table(&spec), by);
        assert!(image(&mut slid(by)) == want, "{by:#x}");
        assert_eq!(want == linked, by == 0);
    }
}

#[test]
fn addresses_move_and_nothing_else() {
    let by = 0x2b60_0000;
    let (mut before, mut after) = (slid(0), slid(by));
    assert!(before == Spec::new().file(), "moved by nothing");
    let differs = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    let (_, old, _) = view::open(&mut before).unwrap();
    let (_, new, _) = view::open(&mut after).unwrap();
    let mut changed = 0;
    let mut is = |old: u64, new: u64, by: u64| {
        assert_eq!(new, old.wrapping_add(by));
        changed += old.to_le_bytes().iter().zip(new.to_le_bytes()).filter(|(a, b)| *a != b).count();
    };
    is(old.info.image_va, new.info.image_va, by);
    is(old.info.fentry, new.info.fentry, by);
    is(old.info.ftrace_caller, new.info.ftrace_caller, by);
    is(old.info.ftrace_regs_caller, new.info.ftrace_regs_caller, by);
    for (a, b) in old.regions.iter().zip(new.regions.iter()) {
        is(a.base, b.base, if a.module == NONE { by } else { 0 });
    }
    let mut kinds = [0; 3];
    for (a, b) in old.exprs.iter().zip(new.exprs.iter()) {
        assert_eq!(a.var, b.var);
        kinds[match a.var {
            KERNEL => 0,
            NONE => 1,
            _ => 2,
        }] += 1;
        is(a.value, b.value, if a.var == KERNEL { by } else { 0 });
    }
    assert!(kinds.iter().all(|n| *n > 0), "{kinds:?}");
    let images = image(&mut slid(0)).into_iter().zip(image(&mut slid(by)));
    let checksum =
        slid(0)[CHECKSUM_OFFSET..][..8].iter().zip(&slid(by)[CHECKSUM_OFFSET..][..8]).filter(|(a, b)| a != b).count();
    assert_eq!(differs, changed + images.filter(|(a, b)| a != b).count() + checksum);
}

#[test]
fn a_kernel_moves_as_far_as_it_may() {
    let mut file = Spec::new().file();
    assert_eq!(Opened::new(&mut file).unwrap().room(), ROOM);
    for by in [ROOM + ALIGN, 1, ALIGN / 2, !(ALIGN - 1)] {
        let mut file = file.clone();
        let moved = std::panic::catch_unwind(move || Opened::new(&mut file).unwrap().slide(by));
        assert!(moved.is_err(), "{by:#x}");
    }
    // Without relocations it has to stay.
    let mut fixed = Builder::new().finish(info());
    assert_eq!(Opened::new(&mut fixed).unwrap().room(), 0);
    // As it has to where modules begin below it.
    let (at, _) = section(&file, Section::Info);
    file[at + 40..at + 48].copy_from_slice(&LINK.to_le_bytes());
    seal(&mut file);
    assert_eq!(Opened::new(&mut file).unwrap().room(), 0);
}

#[test]
fn per_cpu_variables_in_the_image_move_and_offsets_do_not() {
    for (start, moved) in [(0, 0), (LINK + 0x4000, LINK + 0x4000 + ALIGN)] {
        let mut file = Spec::new().file();
        let (at, _) = section(&file, Section::Info);
        file[at + 80..at + 88].copy_from_slice(&u64::to_le_bytes(start));
        seal(&mut file);
        let mut opened = Opened::new(&mut file).unwrap();
        opened.slide(ALIGN);
        assert_eq!(opened.parts().1.info.percpu_start, moved);
    }
}

fn section(file: &[u8], section: Section) -> (usize, usize) {
    let at = SECTIONS_OFFSET + 16 * section as usize;
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
    (word(at), word(at + 8))
}

fn info() -> Info {
    let mut file = Spec::new().file();
    let info = view::open(&mut file).unwrap().1.info;
    Info { release: 0, cmdline: 0, call_forms: NONE, ..info }
}

/// A kernel of two pages and a run, with these fields and a site at 0xffe that is linked as said.
fn with(relocs: &[(u32, RelocKind)], kind: SiteKind, fix: Option<(u8, FixKind, u32)>) -> Result<(), Error> {
    let mut b = Builder::new();
    b.run(0x3000, &[1; 0x20]);
    relocs.iter().for_each(|(at, kind)| b.reloc(*at, *kind));
    let fixes = fix.map(|(pos, kind, var)| FixDef { pos, kind: kind as u8, expr: b.expr(var, LINK), addend: 0 });
    let variants = [fixes.into_iter().collect(), Vec::new()];
    let variants = variants.into_iter().map(|fixes| VariantDef { cond: 0, bytes: vec![0; 8], fixes });
    b.template(&TemplateDef(variants.collect())).unwrap();
    b.local_expr(KERNEL, LINK).unwrap();
    b.region(RegionDef {
        module: NONE,
        kind: RegionKind::KernelText,
        base: LINK + 0x1000,
        bytes: vec![1; 2 * PAGE],
        sites: vec![SiteDef { offset: 0xffe, kind, index: 0, arg: 0 }],
        symbols: Vec::new(),
    })
    .unwrap();
    let mut file = b.finish(info());
    let mut opened = Opened::new(&mut file)?;
    let room = opened.room();
    opened.slide(room);
    Ok(())
}

#[test]
fn relocations_out_of_place_are_refused() {
    use RelocKind::*;
    let at = |relocs: &[(u32, RelocKind)]| with(relocs, SiteKind::Choice, None);
    let wrong = |i| Err(Error::Record(Section::Relocs, i));
    assert_eq!(at(&[(0x1000, Abs64), (0x1008, Abs32), (0x2ffc, Inverse32), (0x3000, Abs64), (0x301c, Abs32)]), Ok(()));
    // Neither code nor data, or across the end of what is kept.
    for place in
        [(0xffc, Abs32), (0xffd, Abs32), (0x2ffd, Abs32), (0x2ff9, Abs64), (0x301d, Inverse32), (0x3020, Abs32)]
    {
        assert!(at(&[(0x1000, Abs64), place]).is_err(), "{place:x?}");
    }
    assert_eq!(at(&[(0x1000, Abs64), (Reloc::LIMIT - 1, Abs32)]), wrong(1));
    // Over each other.
    assert_eq!(at(&[(0x1000, Abs64), (0x1007, Abs32)]), wrong(1));
    assert_eq!(at(&[(0x1000, Abs32), (0x1003, Abs32)]), wrong(1));
    assert_eq!(at(&[(0x1000, Abs32), (0x1000, Inverse32)]), wrong(1));
}

#[test]
fn relocations_of_unknown_kinds_or_out_of_order_are_refused() {
    let damaged = |change: &dyn Fn(&mut [u8])| {
        let mut file = Spec::new().file();
        let (at, len) = section(&file, Section::Relocs);
        change(&mut file[at..at + len]);
        seal(&mut file);
        view::open(&mut file).err()
    };
    assert_eq!(damaged(&|r| r[3] |= 0xc0), Some(Error::Record(Section::Relocs, 0)));
    assert_eq!(damaged(&|r| r[..8].rotate_left(4)), Some(Error::Record(Section::Relocs, 1)));
    assert_eq!(damaged(&|_| ()), None);
}

#[test]
fn relocations_in_patch_sites_are_those_of_the_linked_form() {
    use FixKind::*;
    use RelocKind::*;
    // The site is at 0x1ffe, across two pages.
    let choice = |reloc, fix| with(&[reloc], SiteKind::Choice, Some(fix)).is_ok();
    assert!(choice((0x1ffe, Abs32), (0, ExprAbs32, KERNEL)));
    assert!(choice((0x2002, Abs32), (4, ExprAbs32, KERNEL)));
    assert!(choice((0x2000, Inverse32), (2, ExprRel32, NONE)));
    // Beside it.
    assert!(choice((0x1ffa, Abs32), (0, ExprAbs32, KERNEL)) && choice((0x2006, Abs32), (0, ExprAbs32, KERNEL)));
    // Not the field, not what it holds, or only a part of it.
    assert!(!choice((0x1fff, Abs32), (0, ExprAbs32, KERNEL)));
    assert!(!choice((0x1ffe, Abs32), (0, ExprAbs32, NONE)));
    assert!(!choice((0x1ffe, Abs32), (0, ExprRel32, KERNEL)));
    assert!(!choice((0x1ffe, Inverse32), (0, ExprRel32, KERNEL)));
    assert!(!choice((0x1ffe, Inverse32), (0, ExprAbs32, NONE)));
    assert!(!choice((0x1ffe, Abs64), (0, ExprAbs32, KERNEL)));
    assert!(!choice((0x1ffb, Abs32), (0, ExprAbs32, KERNEL)) && !choice((0x2003, Abs32), (4, ExprAbs32, KERNEL)));
    for kind in [SiteKind::Ftrace, SiteKind::Jump5, SiteKind::StaticCall, SiteKind::Trampoline, SiteKind::Abs64] {
        assert_eq!(with(&[(0x1ffe, Abs32)], kind, None), Err(Error::Record(Section::Relocs, 0)), "{kind:?}");
        assert_eq!(with(&[(0x1ffa, Abs32), (0x2006, Abs32)], kind, None), Ok(()), "{kind:?}");
    }
}
