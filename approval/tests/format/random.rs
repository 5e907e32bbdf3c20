//! Random approvals come back as they were written, and random damage does no harm
use proptest::prelude::*;
use secvisor_approval::PAGE;
use secvisor_approval::build::{Builder, FixDef, RegionDef, SiteDef, SymbolDef, TemplateDef, VariantDef, seal};
use secvisor_approval::pages::Pages;
use secvisor_approval::view::{self, View};
use secvisor_approval::wire::*;

use crate::synthetic;
use crate::{file, section, whole};

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

pub(crate) const INFO: Info = Info {
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
