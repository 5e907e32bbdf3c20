//! The format: what is written is what is read, and what is damaged is refused
#[path = "synthetic/mod.rs"]
mod synthetic;

use proptest::prelude::*;
use secvisor_approval::PAGE;
use secvisor_approval::build::{self, Builder, FixDef, RegionDef, SiteDef, SymbolDef, TemplateDef, VariantDef, seal};
use secvisor_approval::pages::Pages;
use secvisor_approval::view::{self, Error, View};
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

/// Number and record of every page that is packed, and the length of its block.
fn packed(file: &[u8]) -> Vec<(usize, Page, u32)> {
    let (at, len) = section(file, Section::Pages);
    let pages: Vec<Page> = file[at..at + len].chunks_exact(Page::SIZE).map(Page::read).collect();
    let pairs = (0..).zip(pages.windows(2)).map(|(n, pair)| (n, pair[0], pair[1].packed - pair[0].packed));
    pairs.filter(|(_, _, len)| *len > 0).collect()
}

#[test]
fn damaged_packed_pages_are_refused() {
    let whole = file();
    let all = packed(&whole);
    let modules: usize = Spec::new().regions.iter().filter(|r| r.module != NONE).map(|r| r.pages).sum();
    assert!(!all.is_empty() && all.len() < modules, "pages of modules of either kind: {} of {modules}", all.len());
    let (blocks, _) = section(&whole, Section::Packed);
    let mut sound = file();
    let view = view::open(&mut sound).unwrap().1;
    let covered = |number| view.covered(number).map(|range| range.len()).sum::<usize>();
    for (number, page, len) in all {
        let record = (Section::Pages, number * Page::SIZE);
        let next = (record.0, record.1 + Page::SIZE + 8);
        let block = (Section::Packed, page.packed as usize);
        let last = whole[blocks + (page.packed + len) as usize - 1];
        for (at, bytes) in [
            (next, page.packed.to_le_bytes().to_vec()),
            // Less or more in place than the sites cover.
            ((record.0, next.1 - 4), (page.at + covered(number) as u32 + 1).to_le_bytes().to_vec()),
        ] {
            let got = error(damaged(at, &bytes));
            let last = at.0 == next.0 && at.1 > record.1 + Page::SIZE && number + 1 == Spec::new().pages();
            assert_eq!(got, Some(Error::Record(Section::Pages, number + last as usize)), "{at:?}");
        }
        // More literals than there are.
        let mut malformed = damaged(block, &[0xff; 18]);
        let (_, _, pages) = view::open(&mut malformed).unwrap();
        assert_eq!(pages.malformed(), Some(number as u32));
        assert!(pages.get(number as u32, &mut [0; PAGE]).is_none());
        // One literal more or less is a block of another length; another literal is another approval.
        let another = damaged((block.0, block.1 + len as usize - 1), &[last ^ 1]);
        assert_eq!(error(another), None);
    }
}

#[test]
fn a_kernels_pages_are_plain() {
    // The block of a module's page, as if it were that of the kernel's last one.
    let whole = file();
    let (first, page, len) = packed(&whole)[0];
    assert_eq!(page.packed, 0);
    let kernel: usize = Spec::new().regions.iter().filter(|r| r.module == NONE).map(|r| r.pages).sum();
    let mut bytes = whole.clone();
    let at = section(&whole, Section::Pages).0;
    for number in kernel..=first {
        let field = at + number * Page::SIZE + 8;
        bytes[field..field + 4].copy_from_slice(&len.to_le_bytes());
    }
    seal(&mut bytes);
    assert_eq!(error(bytes), Some(Error::Record(Section::Pages, kernel - 1)));
}

#[test]
fn a_page_is_told_by_bytes_that_never_change() {
    let mut whole = file();
    let all = packed(&whole);
    let (_, view, pages) = view::open(&mut whole).unwrap();
    let mut room = [0; PAGE];
    for (number, page, _) in all {
        let bytes = *pages.get(number as u32, &mut room).unwrap();
        assert!(pages.may_be(number as u32, &bytes));
        for (at, byte) in page.probes() {
            assert!(view.covered(number).all(|covered| !covered.contains(&at)));
            assert_eq!(bytes[at], byte);
            let mut other = bytes;
            other[at] ^= 1;
            assert!(!pages.may_be(number as u32, &other));
        }
    }
}

#[test]
fn a_packed_page_holds_what_was_verified_last() {
    let mut file = file();
    let numbers: Vec<usize> = packed(&file).into_iter().map(|(number, ..)| number).collect();
    let (_, view, mut pages) = view::open(&mut file).unwrap();
    let mut room = [0; PAGE];
    let before: Vec<_> = (0..pages.len() as u32).map(|page| *pages.get(page, &mut room).unwrap()).collect();
    let mut straddling = 0;
    for number in numbers {
        let page = number as u32;
        let mut verified = before[number];
        let covered: Vec<_> = view.covered(number).collect();
        covered.iter().flat_map(Clone::clone).for_each(|at| verified[at] ^= 0xff);
        pages.keep(page, &verified);
        assert!(*pages.get(page, &mut room).unwrap() == verified);
        let (first, last) = (&covered[0], covered.last().unwrap());
        assert_eq!(*pages.first(page, first.len()), verified[first.clone()]);
        if last.end == PAGE {
            assert_eq!(*pages.last(page, last.len()), verified[last.clone()]);
        }
        straddling += (last.end == PAGE) as usize;
        let others = (0..pages.len()).filter(|other| *other != number);
        for other in others.collect::<Vec<_>>() {
            assert!(*pages.get(other as u32, &mut room).unwrap() == before[other], "page {other} changed with {page}");
        }
        pages.keep(page, &before[number]);
        assert!(*pages.get(page, &mut room).unwrap() == before[number]);
    }
    assert!(straddling > 0, "no packed page has a site that ends in the next");
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
    assert!(matches!(b.region(region(vec![site(4096)])), Err(build::Error::Overlap(_, 4096))));
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

/// Relocated fields: offset and addend.
type Fields = Vec<(u16, i32)>;

/// What is in a random approval.
#[derive(Clone, Debug)]
struct Random {
    kernel: Vec<Vec<u8>>,
    runs: Vec<(u16, Vec<u8>)>,
    modules: Vec<(Vec<u8>, Fields)>,
    templates: Vec<(Vec<u8>, u8)>,
}

fn random() -> impl Strategy<Value = Random> {
    let bytes = |max| prop::collection::vec(any::<u8>(), 1..max);
    (
        prop::collection::vec(bytes(9000), 1..4),
        prop::collection::vec((any::<u16>(), bytes(40)), 0..4),
        prop::collection::vec((bytes(5000), prop::collection::vec((0..4096u16, any::<i32>()), 0..20)), 0..5),
        prop::collection::vec((prop::collection::vec(any::<u8>(), 4..MAX_SITE), 1..16u8), 1..6),
    )
        .prop_map(|(kernel, runs, modules, templates)| Random { kernel, runs, modules, templates })
}

const INFO: Info = Info {
    image_va: synthetic::IMAGE,
    image_phys: 0x100_0000,
    image_span: 0x10_0000,
    entry_offset: 0,
    align: 0x20_0000,
    modules_start: synthetic::MODULES.start,
    modules_end: synthetic::MODULES.end,
    fentry: 1,
    ftrace_caller: 2,
    ftrace_regs_caller: 3,
    percpu_start: 0,
    release: 0,
    cmdline: 0,
    boot_version: 0x20f,
    cmdline_size: 255,
    call_forms: NONE,
};

/// Where data begins in a random image: behind all code.
const DATA: u64 = 0x4_0000;

fn write(r: &Random) -> (Vec<u8>, Vec<u16>) {
    let mut b = Builder::new();
    r.runs.iter().for_each(|(at, bytes)| b.run(DATA + *at as u64, bytes));
    let templates = r.templates.iter().map(|(bytes, count)| {
        let fix = FixDef { pos: 0, kind: FixKind::ExprAbs32 as u8, expr: b.expr(KERNEL, 5), addend: -1 };
        let one = |i: u8| VariantDef { cond: i as u16, bytes: bytes.clone(), fixes: vec![fix.clone(); i as usize % 3] };
        b.template(&TemplateDef((0..*count).map(one).collect())).unwrap()
    });
    let templates: Vec<u16> = templates.collect();
    let mut base = synthetic::IMAGE;
    for (i, bytes) in r.kernel.iter().enumerate() {
        let sites = vec![SiteDef { offset: 0, kind: SiteKind::Jump2, index: 0, arg: i as i32 }];
        let symbols = vec![SymbolDef { offset: i as u32, name: format!("k{i}"), function: i % 2 == 0 }];
        let def = RegionDef { module: NONE, kind: RegionKind::KernelText, base, bytes: bytes.clone(), sites, symbols };
        b.region(def).unwrap();
        base += bytes.len().next_multiple_of(PAGE) as u64 + PAGE as u64;
    }
    let names: Vec<String> = (0..r.modules.len()).map(|i| format!("m{i}")).collect();
    let vars: Vec<u32> = names.iter().map(|n| b.module(n, &[VarClass::Code, VarClass::Data]).1).collect();
    for (i, (bytes, sites)) in r.modules.iter().enumerate() {
        b.begin_module(i as u32);
        let mut sites = sites.clone();
        sites.sort();
        sites.dedup_by(|a, b| a.0.abs_diff(b.0) < 4);
        sites.retain(|s| s.0 as usize + 4 <= bytes.len().next_multiple_of(PAGE));
        let sites = sites.iter().map(|(offset, arg)| {
            let index = b.local_expr(vars[i] + 1, *arg as u64).unwrap();
            SiteDef { offset: *offset as u64, kind: SiteKind::Abs32, index, arg: *arg }
        });
        let sites = sites.collect();
        let def = RegionDef {
            module: i as u32,
            kind: RegionKind::ModuleText,
            base: vars[i] as u64,
            bytes: bytes.clone(),
            sites,
            symbols: Vec::new(),
        };
        b.region(def).unwrap();
    }
    (b.finish(INFO), templates)
}

/// Uses everything a view and its pages offer.
fn read_all(view: &View<'_>, pages: &mut Pages<'_>) {
    let mut room = [0; PAGE];
    for page in 0..pages.len() as u32 {
        let Some(bytes) = pages.get(page, &mut room).copied() else { continue };
        let _ = pages.may_be(page, &bytes);
        pages.keep(page, &bytes);
        assert!(*pages.get(page, &mut room).unwrap() == bytes);
        let covered: Vec<_> = view.covered(page as usize).collect();
        assert_eq!(*pages.first(page, covered[0].len()), bytes[covered[0].clone()]);
        if let Some(last) = covered.last().filter(|last| last.end == PAGE) {
            assert_eq!(*pages.last(page, last.len()), bytes[last.clone()]);
        }
    }
    for region in view.regions.iter() {
        for offset in [0, 1, region.pages * PAGE as u32 - 1, u32::MAX] {
            let symbol = view.symbol_at(&region, offset);
            let _ = (symbol.map(|s| view.symbol_name(&s).to_string().len()), view.function_at(&region, offset));
        }
    }
    for page in 0..view.pages() {
        view.region_of_page(page as u32);
        for site in view.sites_of(page).map(|s| view.sites.at(s)) {
            let len = view.site_len(&site);
            assert!((1..=MAX_SITE).contains(&len));
            if site.kind() == Some(SiteKind::Choice) {
                let t = view.templates.at(site.index() as usize);
                for v in view.variants.range(t.first_variant as usize, t.variants as usize) {
                    assert_eq!(view.variant_bytes(&v, len).len(), len);
                    view.fixes
                        .range(v.first_fix as usize, v.fixes as usize)
                        .for_each(|f| assert!((f.pos as usize) < len));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(random in random()) {
        let (mut file, templates) = write(&random);
        prop_assert!(file == write(&random).0);
        let (launch, view, mut pages) = view::open(&mut file).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(view.info, INFO);
        prop_assert_eq!(launch.runs.len(), random.runs.len());
        for (run, (at, bytes)) in launch.runs.iter().zip(&random.runs) {
            prop_assert_eq!(run.image_offset, DATA + *at as u64);
            prop_assert_eq!(&launch.data[run.data_offset as usize..][..run.len as usize], &bytes[..]);
        }
        let all: Vec<&Vec<u8>> = random.kernel.iter().chain(random.modules.iter().map(|m| &m.0)).collect();
        prop_assert_eq!(view.regions.len(), all.len());
        for (region, bytes) in view.regions.iter().zip(all) {
            let mut want = bytes.clone();
            want.resize(bytes.len().next_multiple_of(PAGE), 0);
            prop_assert!(whole(&pages, &region) == want);
        }
        for (region, (_, sites)) in view.regions.iter().filter(|r| r.module != NONE).zip(&random.modules) {
            let exprs = view.modules.at(region.module as usize).first_expr as usize;
            for (page, site) in (region.first_page..region.first_page + region.pages)
                .flat_map(|page| view.sites_of(page as usize).map(move |s| (page - region.first_page, s)))
            {
                let site = view.sites.at(site);
                let offset = page as usize * PAGE + site.offset();
                // An expression of the argument's own value, whatever of it the site has room for.
                let sum = view.exprs.at(exprs + site.index() as usize).value.wrapping_add(site.arg() as u64);
                let written = |s: &(u16, i32)| s.0 as usize == offset && (s.1 as u64).wrapping_mul(2) == sum;
                prop_assert!(sites.iter().any(written), "{offset:#x}: {sum:#x}");
            }
        }
        for (index, (bytes, count)) in templates.iter().zip(&random.templates) {
            let t = view.templates.at(*index as usize);
            prop_assert_eq!((t.variants, t.len as usize), (*count as u16, bytes.len()));
            for (i, v) in view.variants.range(t.first_variant as usize, t.variants as usize).enumerate() {
                prop_assert_eq!((v.cond, v.fixes), (i as u16, i as u16 % 3));
                prop_assert_eq!(view.variant_bytes(&v, t.len as usize), &bytes[..]);
            }
        }
        read_all(&view, &mut pages);
    }

    /// Bytes changed anywhere, with a checksum that fits: refused, or read without a panic.
    #[test]
    fn damage_never_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut file = file();
        let pages = section(&file, Section::Code).0;
        for (at, value) in changes {
            file[at.index(pages)] = value;
        }
        seal(&mut file);
        if let Ok((_, view, mut pages)) = view::open(&mut file) {
            read_all(&view, &mut pages);
        }
    }

    /// The same for the few bytes that decide most.
    #[test]
    fn damaged_headers_never_panic(changes in prop::collection::vec((0..HEADER_LEN, any::<u8>()), 1..4), cut in 0..4096usize) {
        let mut file = file();
        for (at, value) in changes {
            file[at] = value;
        }
        file.truncate(file.len().saturating_sub(cut));
        if file.len() >= HEADER_LEN {
            let len = file.len() as u64;
            file[16..24].copy_from_slice(&len.to_le_bytes());
            seal(&mut file);
        }
        if let Ok((_, view, mut pages)) = view::open(&mut file) {
            read_all(&view, &mut pages);
        }
    }
}
