//! Whether an approval foretells what the [`simulation`](super::simulation) makes of a module
//!
//! Stricter than the hypervisor: of every choice only the value counts that the machine's features select, and
//! variables must be solved as the addresses things were placed at.
#![cfg(test)]
use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;
use secvisor_approval::PAGE;
use secvisor_approval::pages::Pages;
use secvisor_approval::view::{Opened, View};
use secvisor_approval::wire::{Expr, FixKind, KERNEL, Module, NONE, Region, RegionKind, Site, SiteKind, cond};

use super::simulation::{Loaded, Machine, Patched, Random, get32, get64, nop};
use super::tests::{cached, unpacked};
use super::{Set, files};
use crate::kernel::Kernel;

/// What one comparison saw.
#[derive(Default, Debug)]
struct Seen {
    pages: usize,
    kinds: BTreeMap<String, usize>,
}

/// An approval, and where the simulation placed everything.
struct Judge<'a> {
    view: &'a View<'a>,
    pages: &'a Pages<'a>,
    places: HashMap<&'a str, &'a Loaded>,
}

/// A module under comparison.
struct Case<'a> {
    judge: &'a Judge<'a>,
    module: Module,
    loaded: &'a Loaded,
    /// Values of variables.
    bound: HashMap<u32, u64>,
    seen: Seen,
}

impl Judge<'_> {
    /// Compares a loaded module with the approval, byte by byte.
    fn compare(&self, index: usize, m: &Loaded, patched: &mut Patched<'_>, running: &BTreeMap<u64, SiteKind>) -> Seen {
        let module = self.view.modules.at(index);
        assert_eq!(self.view.name(module.name), m.name);
        let mut case = Case { judge: self, module, loaded: m, bound: HashMap::new(), seen: Seen::default() };
        let blocks = [
            (RegionKind::ModuleText, m.blocks[0].0, m.text_size),
            (RegionKind::ModuleInit, m.blocks[m.init_block].0, m.init_text_size),
        ];
        let mut regions = self.view.regions.range(module.first_region as usize, module.regions as usize);
        let mut found = 0;
        case.bound.insert(module.first_var, m.blocks[0].0);
        for (kind, base, size) in blocks.into_iter().filter(|b| b.2 > 0) {
            let region = regions.next().expect("a region");
            let pages = size.div_ceil(4096) as u32;
            assert_eq!((region.kind, region.pages), (kind as u32, pages), "{}", m.name);
            found += case.region(&region, base, patched, running);
        }
        assert!(regions.next().is_none(), "{}", m.name);
        assert_eq!(found, running.len(), "{}: some jump labels or static calls are no sites", m.name);
        case.placed();
        case.seen
    }
}

impl Case<'_> {
    fn expr(&self, site: &Site) -> Expr {
        self.judge.view.exprs.at(self.module.first_expr as usize + site.index() as usize)
    }

    fn value(&self, expr: Expr) -> u64 {
        match expr.var {
            NONE | KERNEL => expr.value,
            var => self.bound.get(&var).expect("a variable no field solves").wrapping_add(expr.value),
        }
    }

    /// Compares a region; the number of its sites that change at run time.
    fn region(
        &mut self,
        region: &Region,
        base: u64,
        patched: &mut Patched<'_>,
        running: &BTreeMap<u64, SiteKind>,
    ) -> usize {
        let known = self.bound.insert(region.base as u32, base);
        assert!(known.is_none_or(|k| k == base));
        let Judge { view, pages, .. } = *self.judge;
        let range = region.first_page as usize..(region.first_page + region.pages) as usize;
        let mut want: Vec<u8> =
            range.clone().flat_map(|page| *pages.get(page as u32, &mut [0; PAGE]).unwrap()).collect();
        let have = patched.memory.at(base, want.len()).to_vec();
        self.seen.pages += range.len();
        let sites: Vec<(usize, Site)> = range
            .clone()
            .flat_map(|p| view.sites_of(p).map(move |s| (p, view.sites.at(s))))
            .map(|(p, s)| ((p - range.start) * 4096 + s.offset(), s))
            .collect();
        // Fields first: they tell where things are.
        for (at, site) in &sites {
            *self.seen.kinds.entry(format!("{:?}", site.kind().unwrap())).or_default() += 1;
            self.field(site, base + *at as u64, &have[*at..], &mut want[*at..]);
        }
        let mut changing = 0;
        for (at, site) in &sites {
            let va = base + *at as u64;
            let code = match site.kind().unwrap() {
                SiteKind::Abs32 | SiteKind::Rel32 | SiteKind::Abs64 => continue,
                SiteKind::Choice => self.choice(site, va, patched.machine),
                SiteKind::Ftrace => nop(5).to_vec(),
                kind => {
                    changing += 1;
                    assert_eq!(running.get(&va), Some(&kind), "{}: {kind:?} at {at:#x}", self.loaded.name);
                    let allowed = self.running(kind, site, va, patched);
                    let found = allowed.into_iter().find(|a| have[*at..].starts_with(a));
                    found.unwrap_or_else(|| panic!("{}: {kind:?} at {at:#x}", self.loaded.name))
                }
            };
            want[*at..at + code.len()].copy_from_slice(&code);
        }
        if let Some(at) = (0..have.len()).find(|i| have[*i] != want[*i]) {
            let near = |b: &[u8]| format!("{:02x?}", &b[at.saturating_sub(8)..(at + 16).min(b.len())]);
            let (name, have, want) = (&self.loaded.name, near(&have), near(&want));
            panic!("{name}: region {} differs at {at:#x}: loaded {have}, approved {want}", region.kind);
        }
        changing
    }

    /// What a field must hold; solved for its variable if that is not known yet.
    fn field(&mut self, site: &Site, va: u64, have: &[u8], want: &mut [u8]) {
        let (place, width) = match site.kind().unwrap() {
            SiteKind::Rel32 => (va, 4),
            SiteKind::Abs32 => (0, 4),
            SiteKind::Abs64 => (0, 8),
            _ => return,
        };
        let expr = self.expr(site);
        let constant = (site.arg() as u64).wrapping_sub(place).wrapping_add(expr.value);
        let held = if width == 8 { get64(have, 0) } else { get32(have, 0) as u32 as i32 as u64 };
        let value = match expr.var {
            NONE | KERNEL => constant,
            var => constant.wrapping_add(*self.bound.entry(var).or_insert(held.wrapping_sub(constant))),
        };
        want[..width].copy_from_slice(&value.to_le_bytes()[..width]);
    }

    /// The value of a choice on this machine.
    fn choice(&self, site: &Site, va: u64, machine: &Machine) -> Vec<u8> {
        let view = self.judge.view;
        let template = view.templates.at(site.index() as usize);
        let (first, count, len) = (template.first_variant, template.variants, template.len);
        let variants: Vec<_> = view.variants.range(first as usize, count as usize).collect();
        let passing = variants[1..].iter().any(|v| v.cond == cond::BOOT_ONLY);
        assert!(!passing, "{}: a form that is gone before the code can run", self.loaded.name);
        let variant = variants.iter().rfind(|v| machine.holds(v.cond)).expect("no variant holds");
        let mut code = view.variant_bytes(variant, len as usize).to_vec();
        for fix in view.fixes.range(variant.first_fix as usize, variant.fixes as usize) {
            let target = self.value(view.exprs.at(fix.expr as usize)).wrapping_add(fix.addend as u64);
            let pos = fix.pos as usize;
            let value = match FixKind::new(fix.kind).unwrap() {
                FixKind::ExprRel32 => target.wrapping_sub(va + pos as u64 + 4),
                FixKind::ExprAbs32 => target,
            };
            code[pos..pos + 4].copy_from_slice(&(value as u32).to_le_bytes());
        }
        code
    }

    /// What a site that changes at run time may hold in the simulation.
    fn running(&self, kind: SiteKind, site: &Site, va: u64, patched: &Patched<'_>) -> Vec<Vec<u8>> {
        let branch = |opcode, to: u64| Patched::branch(opcode, va, to).to_vec();
        let behind = va.wrapping_add(5).wrapping_add(site.arg() as u64);
        let opcode = if kind == SiteKind::StaticCall { 0xe8 } else { 0xe9 };
        match kind {
            SiteKind::Jump2 => vec![nop(2).to_vec(), vec![0xeb, site.arg() as u8]],
            SiteKind::Jump5 => vec![nop(5).to_vec(), branch(0xe9, behind)],
            _ => {
                let linked = branch(opcode, self.value(self.expr(site)).wrapping_add(site.arg() as u64));
                let mut allowed = vec![linked, branch(opcode, patched.function())];
                if kind == SiteKind::StaticCall {
                    allowed.extend([nop(5).to_vec(), vec![0x2e, 0x2e, 0x2e, 0x31, 0xc0]]);
                } else {
                    allowed.push(patched.return_form(va));
                }
                allowed
            }
        }
    }

    /// What was solved must be where things are.
    fn placed(&self) {
        let view = self.judge.view;
        for (var, value) in &self.bound {
            let owner = view.modules.at(view.vars.at(*var as usize).module as usize);
            let owner = self.judge.places[view.name(owner.name)];
            let known = owner.blocks.iter().any(|b| b.0 == *value) || owner.percpu == *value;
            assert!(known, "{}: a variable of {} was solved as {value:#x}", self.loaded.name, owner.name);
        }
    }
}

/// Approves the modules of a cached kernel, loads those that are picked `rounds` times, and compares.
fn check(release: &str, rounds: u64, pick: impl Fn(usize) -> bool + Sync) {
    let Some(cache) = cached(release) else { return };
    let (setup, vmlinux) = unpacked(&cache);
    let kernel = Kernel::parse(setup, &vmlinux).unwrap();
    let files = files(&[cache.join("lib/modules")]).unwrap();
    let set = Set::load(&files, &kernel).unwrap();
    assert_eq!(set.left_out(), []);
    let mut emitter = kernel.emitter();
    let (info, _) = kernel.emit(&mut emitter).unwrap();
    set.emit(&mut emitter).unwrap();
    let file = emitter.builder.finish(info);
    for round in 0..rounds {
        let mut random = Random(round * 77 + 1);
        let mut file = file.clone();
        let mut opened = Opened::new(&mut file).unwrap();
        let slide = random.below(opened.room() / info.align + 1) * info.align;
        opened.slide(slide);
        let (_, view, pages) = opened.parts();
        // The AP trampoline and the tracers come first.
        let first = view.modules.len() - files.len();
        assert_eq!(crate::inspect::modules(&view), files.len());
        let machine = Machine::random(&mut random);
        let seeds: Vec<u64> = files.iter().map(|_| random.next()).collect();
        let load = |(path, seed): (&std::path::PathBuf, &u64)| {
            let data = super::ko::contents(path).unwrap();
            let m = Loaded::new(data, kernel.flavor, &mut Random(*seed));
            (m.name.clone(), m)
        };
        let loaded: BTreeMap<String, Loaded> = files.par_iter().zip(&seeds).map(load).collect();
        let exports: HashMap<String, u64> = loaded.values().flat_map(Loaded::exports).collect();
        let places = loaded.iter().map(|(n, m)| (n.as_str(), m)).collect();
        let judge = Judge { view: &view, pages: &pages, places };
        let total = loaded.values().enumerate().par_bridge().filter(|(i, _)| pick(*i)).map(|(index, m)| {
            let memory = m.load(&kernel, slide, &exports);
            let mut patched = Patched { memory, kernel: &kernel, slide, machine: &machine };
            patched.finalize(m);
            let running = patched.running(m, &mut Random(round ^ index as u64));
            judge.compare(first + index, m, &mut patched, &running)
        });
        let total = total.reduce(Seen::default, |mut a, b| {
            a.pages += b.pages;
            b.kinds.into_iter().for_each(|(k, n)| *a.kinds.entry(k).or_default() += n);
            a
        });
        let Machine { returns, indirect, single, .. } = machine;
        println!("{release} round {round} slide={slide:#x} {returns:?} {indirect:?} single={single}: {total:?}");
    }
}

#[test]
fn some_modules_of_6_1_load_as_approved() {
    check("6.1", 2, |i| i % 20 == 3);
}

#[test]
fn some_modules_of_6_12_load_as_approved() {
    check("6.12", 2, |i| i % 20 == 3);
}

/// `cargo test --release -p secvisor -- --ignored --nocapture all_modules`: half a minute.
#[test]
#[ignore = "takes minutes unless built with --release"]
fn all_modules_load_as_approved() {
    check("6.1", 12, |_| true);
    check("6.12", 12, |_| true);
}
