//! The format: what is written is what is read, and what is damaged is refused
mod packed;
mod random;
#[path = "../synthetic/mod.rs"]
mod synthetic;

use random::INFO;
use secvisor_approval::PAGE;
use secvisor_approval::build::{self, Builder, RegionDef, SiteDef, TemplateDef, VariantDef, seal};
use secvisor_approval::pages::Pages;
use secvisor_approval::view::{self, Error};
use secvisor_approval::wire::*;
use synthetic::{Spec, VARS};

/// The kernel lies where it was linked.
const SLIDE: u64 = 0;

fn file() -> Vec<u8> {
    Spec::new().file()
}

fn error(mut file: Vec<u8>) -> Option<Error> {
    view::open(&mut file).err()
}

/// Offset and length of a section.
fn section(file: &[u8], section: Section) -> (usize, usize) {
    let at = SECTIONS_OFFSET + 16 * section as usize;
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
    (word(at), word(at + 8))
}

/// A region's bytes, zeros included.
fn whole(pages: &Pages<'_>, region: &Region) -> Vec<u8> {
    (region.first_page..region.first_page + region.pages)
        .flat_map(|page| *pages.get(page, &mut [0; PAGE]).unwrap())
        .collect()
}

/// The file with bytes of a section changed and the checksum made to fit.
fn damaged(at: (Section, usize), bytes: &[u8]) -> Vec<u8> {
    let mut file = file();
    let offset = section(&file, at.0).0 + at.1;
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    seal(&mut file);
    file
}

#[test]
fn the_synthetic_approval_reads_as_it_was_written() {
    let spec = Spec::new();
    let mut file = spec.file();
    assert!(file == spec.file(), "the same input gives the same bytes");
    let (launch, view, pages) = view::open(&mut file).unwrap();
    assert_eq!((launch.runs.len(), launch.data.len(), launch.relocs.len()), (1, 32, 9));
    assert_eq!((pages.len(), view.pages(), view.vars.len()), (spec.pages(), spec.pages(), VARS));
    assert_eq!(view.name(view.info.release), "6.12.0-synthetic");
    assert_eq!(view.name(view.info.cmdline), "nohibernate");
    let modules: Vec<&str> = view.modules.iter().map(|m| view.name(m.name)).collect();
    assert_eq!(modules, ["alpha", "beta", "gamma", "realmode", "tracer", "other_tracer"]);
    for (i, (region, want)) in view.regions.iter().zip(&spec.regions).enumerate() {
        assert_eq!((region.module, region.base, region.pages), (want.module, want.base, want.pages as u32));
        assert_eq!(region.kind, want.kind as u32);
        let range = region.first_page as usize..(region.first_page + region.pages) as usize;
        assert!(whole(&pages, &region) == spec.bytes(i));
        let sites: Vec<(usize, usize)> = range
            .enumerate()
            .flat_map(|(n, page)| view.sites_of(page).map(move |s| (n, s)))
            .map(|(n, s)| (n * PAGE + view.sites.at(s).offset(), view.site_len(&view.sites.at(s))))
            .collect();
        let mut wanted: Vec<_> = want.sites.iter().map(|s| (s.offset as usize, s.kind.len())).collect();
        wanted.sort();
        assert_eq!(sites, wanted);
        for function in &want.functions {
            assert!(view.function_at(&region, *function as u32));
            assert!(!view.function_at(&region, *function as u32 + 1));
            let name = synthetic::symbol(i, *function);
            let symbol = view.symbol_at(&region, *function as u32 + 3).unwrap();
            let of_symbol = view.symbol_name(&symbol);
            assert!(of_symbol.to_string() == name && of_symbol.is(&name) && !of_symbol.is(&name[1..]));
        }
    }
    assert!(!view.function_at(&view.regions.at(0), (synthetic::LABEL - synthetic::IMAGE) as u32));
    for page in 0..spec.pages() as u32 {
        let region = view.regions.at(view.region_of_page(page));
        assert!((region.first_page..region.first_page + region.pages).contains(&page));
    }
}

#[test]
fn a_part_of_a_file_is_refused() {
    let whole = file();
    let ends = (0..HEADER_LEN + 64).chain((HEADER_LEN..whole.len()).step_by(997)).chain([whole.len() - 1]);
    for end in ends {
        let want = if end < HEADER_LEN || end >= 24 { Error::Truncated } else { unreachable!() };
        assert_eq!(error(whole[..end].to_vec()), Some(want), "{end}");
    }
    for more in [1, 8, PAGE] {
        let mut long = whole.clone();
        long.resize(whole.len() + more, 0);
        assert_eq!(error(long), Some(Error::Trailing));
    }
    assert_eq!(view::length(&whole), Ok(whole.len() as u64));
    assert_eq!(view::length(&whole[..HEADER_LEN]), Ok(whole.len() as u64));
    assert_eq!(view::length(&whole[..HEADER_LEN - 1]), Err(Error::Truncated));
}

#[test]
fn something_else_is_refused() {
    let mut foreign = file();
    foreign[..4].copy_from_slice(b"\x7fELF");
    assert_eq!(error(foreign), Some(Error::NotAnApproval));
    assert_eq!(error(vec![0; 1 << 16]), Some(Error::NotAnApproval));
    let mut newer = file();
    newer[8] = VERSION as u8 + 1;
    assert_eq!(error(newer), Some(Error::Version(VERSION + 1)));
}

#[test]
fn any_changed_bit_is_noticed() {
    let whole = file();
    let bits = (0..HEADER_LEN * 8).chain((HEADER_LEN * 8..whole.len() * 8).step_by(4099));
    for bit in bits {
        let mut changed = whole.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(error(changed).is_some(), "bit {bit}");
    }
}

#[test]
fn sections_out_of_place_are_refused() {
    for index in 0..SECTIONS {
        let at = SECTIONS_OFFSET + 16 * index;
        let original = file();
        let offset = u64::from_le_bytes(original[at..at + 8].try_into().unwrap());
        let values: [(usize, u64); 6] = [
            (at, u64::MAX),
            (at, original.len() as u64 + 1),
            (at, 0),
            (at, HEADER_LEN as u64 - 16),
            (at + 8, u64::MAX - offset),
            (at + 8, original.len() as u64 - offset + 1),
        ];
        for (at, value) in values {
            let mut changed = original.clone();
            changed[at..at + 8].copy_from_slice(&value.to_le_bytes());
            seal(&mut changed);
            assert_eq!(error(changed), Some(Error::Section(index)), "{value:#x} at {at:#x}");
        }
    }
    let mut changed = file();
    changed[24..32].copy_from_slice(&1u64.to_le_bytes());
    seal(&mut changed);
    assert!(matches!(error(changed), Some(Error::Section(_))), "runtime offset");
}

/// Position of a field by the sizes of those before it.
const fn word(n: usize) -> usize {
    4 * n
}

#[test]
fn a_jump_label_may_jump_anywhere() {
    for arg in [0, 1, -1, 0x7fff, 0x8000, -0x8000, -0x8001, i32::MAX, i32::MIN] {
        assert_eq!(Site::new(0xfff, SiteKind::Jump5, 0, arg).arg(), arg);
    }
    for (kind, arg) in [(SiteKind::Jump2, -128), (SiteKind::Rel32, 0x7fff), (SiteKind::StaticCall, -0x8000)] {
        let site = Site::new(1, kind, 0xfffe, arg);
        assert_eq!((site.kind(), site.index(), site.arg()), (Some(kind), 0xfffe, arg));
    }
}

/// Every kind of wrong number, and the record it is found in.
#[test]
fn impossible_records_are_refused() {
    use Section::*;
    let far = u32::MAX.to_le_bytes();
    let high = u64::MAX.to_le_bytes();
    let n = |v: u32| v.to_le_bytes().to_vec();
    let one = |s: Section, record: usize, size: usize, field: usize, bytes: Vec<u8>| (s, record, size, field, bytes);
    let region = Region::SIZE;
    let module = Module::SIZE;
    let cases = [
        one(Runs, 0, Run::SIZE, 0, high.to_vec()),
        one(Runs, 0, Run::SIZE, 8, 33u64.to_le_bytes().to_vec()),
        one(Runs, 0, Run::SIZE, 16, high.to_vec()),
        // Over the kernel's code.
        one(Runs, 0, Run::SIZE, 0, 0x9ff0u64.to_le_bytes().to_vec()),
        one(Runs, 0, Run::SIZE, 0, 0xafe1u64.to_le_bytes().to_vec()),
        one(Info, 0, 0, 0, 1u64.to_le_bytes().to_vec()),
        one(Info, 0, 0, 0, (!0xfffu64).to_le_bytes().to_vec()),
        one(Info, 0, 0, 8, 1u64.to_le_bytes().to_vec()),
        one(Info, 0, 0, 8, (1u64 << 40).to_le_bytes().to_vec()),
        one(Info, 0, 0, 16, (1u64 << 30).to_le_bytes().to_vec()),
        one(Info, 0, 0, 24, high.to_vec()),
        one(Info, 0, 0, 32, vec![3]),
        one(Info, 0, 0, 32, vec![0; 8]),
        one(Info, 0, 0, 40, high.to_vec()),
        one(Info, 0, 0, 40, (LOW_END - 1).to_le_bytes().to_vec()),
        one(Info, 0, 0, 48, high.to_vec()),
        // No template, and one of another length.
        one(Info, 0, 0, 104, 1_000_000u32.to_le_bytes().to_vec()),
        one(Info, 0, 0, 104, 0u32.to_le_bytes().to_vec()),
        one(Regions, 0, region, word(0), n(0)),
        one(Regions, 3, region, word(0), n(2)),
        one(Regions, 0, region, word(1), n(4)),
        one(Regions, 0, region, word(1), n(2)),
        one(Regions, 1, region, word(2), n(0)),
        one(Regions, 0, region, word(3), n(0)),
        one(Regions, 7, region, word(3), far.to_vec()),
        one(Regions, 0, region, word(4), far.to_vec()),
        one(Regions, 0, region, word(5), far.to_vec()),
        one(Regions, 0, region, word(6), 0u64.to_le_bytes().to_vec()),
        one(Regions, 1, region, word(6), synthetic::IMAGE.to_le_bytes().to_vec()),
        one(Regions, 1, region, word(6), (synthetic::IMAGE + 0xb001).to_le_bytes().to_vec()),
        one(Regions, 2, region, word(6), (synthetic::IMAGE + synthetic::SPAN).to_le_bytes().to_vec()),
        one(Vars, 2, Var::SIZE, word(1), n(4)),
        one(Exprs, 1, Expr::SIZE, word(0), n(VARS as u32)),
        one(Exprs, 1, Expr::SIZE, word(0), n(KERNEL - 1)),
        one(Sites, 1, Site::SIZE, 0, vec![0]),
        one(Sites, 0, Site::SIZE, 1, vec![0xd0]),
        one(Sites, 3, Site::SIZE, 2, vec![0xff, 0xff]),
        one(Templates, 0, Template::SIZE, 0, far.to_vec()),
        one(Templates, 0, Template::SIZE, 4, vec![0, 0]),
        one(Templates, 0, Template::SIZE, 4, vec![17, 0]),
        one(Templates, 0, Template::SIZE, 6, vec![0, 0]),
        one(Templates, 0, Template::SIZE, 6, vec![65, 0]),
        one(Consts, 0, Const::SIZE, 0, n(4)),
    ];
    for (s, record, size, field, bytes) in cases {
        let got = error(damaged((s, record * size + field), &bytes));
        // A region that is nobody's is found where its module is checked.
        let mine = matches!(got, Some(Error::Record(at, i)) if at == s && i == record)
            || s == Regions && matches!(got, Some(Error::Record(Modules | Regions, _)))
            || s == Templates && matches!(got, Some(Error::Record(Sites | Templates, _)));
        assert!(mine, "{s:?} {record} field {field} = {bytes:x?}: {got:?}");
    }
    // A module's: who owns what.
    for (field, bytes) in [(1, n(1)), (1, far.to_vec()), (2, n(9)), (2, far.to_vec()), (3, far.to_vec()), (4, n(0))] {
        let got = error(damaged((Modules, word(field)), &bytes));
        assert!(matches!(got, Some(Error::Record(Modules, 0 | 1))), "{field} {bytes:x?}: {got:?}");
    }
    for (field, bytes) in [(5, n(0)), (5, n(3)), (5, far.to_vec())] {
        let got = error(damaged((Modules, module + word(field)), &bytes));
        assert!(matches!(got, Some(Error::Record(Modules, _) | Error::Section(_))), "{field} {bytes:x?}: {got:?}");
    }
    assert!(matches!(error(damaged((Vars, 0), &n(1))), Some(Error::Record(Modules, 0))));
    // The first module's text is where its data should be.
    let base = 3 * region + word(6);
    let data = u64::from(synthetic::A_DATA).to_le_bytes();
    assert!(matches!(error(damaged((Regions, base), &data)), Some(Error::Record(Modules, 0))));
    // A trampoline that does not fit below 1 MiB, or lies where data should.
    let regions = section(&file(), Regions).1 / region;
    let wide = damaged((Vars, synthetic::R_TEXT as usize * Var::SIZE + word(1)), &n(VarClass::Data as u32));
    assert_eq!((regions, error(wide)), (10, Some(Error::Record(Modules, 3))));
    for (pages, ok) in [(255, true), (256, false)] {
        let mut b = Builder::new();
        let (module, base) = b.module("realmode", &[VarClass::Low]);
        b.begin_module(module);
        let bytes = vec![0; pages * PAGE];
        let kind = RegionKind::ModuleText;
        b.region(RegionDef { module, kind, base: base as u64, bytes, sites: Vec::new(), symbols: Vec::new() }).unwrap();
        assert_eq!(error(b.finish(INFO)), (!ok).then_some(Error::Record(Modules, 0)));
    }
    // So high that a module at the end of the range would reach behind the last address.
    assert_eq!(error(damaged((Info, 48), &(!0xfffu64).to_le_bytes())), Some(Error::Record(Modules, 0)));
    // Variants and fixes are found by their template.
    for (at, bytes) in [(0, vec![0xff, 0x7f]), (2, vec![0xff, 0xff]), (4, far.to_vec()), (8, far.to_vec())] {
        let got = error(damaged((Variants, at), &bytes));
        assert!(matches!(got, Some(Error::Record(Templates, 0))), "variant {at}: {got:?}");
    }
    for (at, bytes) in [(0, vec![2]), (1, vec![4]), (4, far.to_vec())] {
        let got = error(damaged((Fixes, at), &bytes));
        assert!(matches!(got, Some(Error::Record(Templates, 0))), "fix {at}: {got:?}");
    }
    // Offsets of a page, first and last and in between: too few, too many, more than a page, a kernel's not whole.
    let pages = Spec::new().pages();
    let field = |page: usize, field: usize| (Pages, page * Page::SIZE + word(field));
    for (at, bytes) in [
        (field(0, 0), n(1)),
        (field(0, 1), n(1)),
        (field(pages, 0), n(1)),
        (field(pages, 1), n(1)),
        (field(0, 2), n(1)),
        (field(pages, 2), n(1)),
    ] {
        assert_eq!(error(damaged(at, &bytes)), Some(Error::Record(Pages, pages)), "{at:?}");
    }
    for (at, bytes) in [
        (field(1, 0), far.to_vec()),
        (field(1, 1), far.to_vec()),
        (field(1, 1), n(0)),
        (field(1, 1), n(PAGE as u32 - 1)),
        (field(1, 1), n(PAGE as u32 + 1)),
        (field(pages - 1, 1), n(0)),
        (field(1, 2), n(1)),
    ] {
        let got = error(damaged(at, &bytes));
        assert!(matches!(got, Some(Error::Record(Pages, _))), "{at:?} {bytes:x?}: {got:?}");
    }
    let last = section(&file(), Names).1 - 1;
    assert_eq!(error(damaged((Names, last), b"x")), Some(Error::Section(Names as usize)));
}

#[test]
fn errors_are_one_line_that_names_the_cause() {
    let all = [
        (Error::Truncated, "truncated"),
        (Error::Trailing, "trailing"),
        (Error::NotAnApproval, "not an approval"),
        (Error::Version(7), "version 7"),
        (Error::Checksum, "checksum"),
        (Error::Section(3), "section 3"),
        (Error::Record(Section::Sites, 12), "record 12 in section Sites"),
    ];
    for (error, part) in all {
        let text = error.to_string();
        assert!(text.contains(part) && !text.contains('\n'), "{text}");
    }
}

#[test]
fn limits_of_the_builder_are_errors() {
    let mut b = Builder::new();
    let region = |sites| RegionDef {
        module: NONE,
        kind: RegionKind::KernelText,
        base: 0,
        bytes: vec![0; 100],
        sites,
        symbols: Vec::new(),
    };
    let site = |offset| SiteDef { offset, kind: SiteKind::Ftrace, index: 0, arg: 0 };
    assert!(matches!(b.region(region(vec![site(4096)])), Err(build::Error::Outside(_, 4096))));
    for value in 0..=u16::MAX as u64 {
        b.local_expr(NONE, value).unwrap();
    }
    assert_eq!(b.local_expr(NONE, 7), Ok(7), "known");
    assert!(matches!(b.local_expr(NONE, 1 << 20), Err(build::Error::TooMany(_))));
    for n in 0..=u16::MAX as u32 {
        b.template(&TemplateDef(vec![variant(0, &n.to_le_bytes())])).unwrap();
    }
    assert!(b.template(&TemplateDef(vec![variant(0, &[0; 4])])).is_ok(), "known");
    assert!(matches!(b.template(&TemplateDef(vec![variant(1, &[0; 4])])), Err(build::Error::TooMany(_))));
}

fn variant(cond: u16, bytes: &[u8]) -> VariantDef {
    VariantDef { cond, bytes: bytes.to_vec(), fixes: Vec::new() }
}
