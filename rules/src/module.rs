//! Module pages: approved only as part of one consistently placed module
//!
//! An *instance* is a module together with the values of its variables (where its regions lie, its per-CPU chunk).
//! A variable is bound by the first page that shows it and then holds for all pages of the instance. A fetch that
//! contradicts the instance but is a consistent page of the module placed anew *supersedes* it: Linux has loaded
//! the module again. What was approved under the old instance, or refers to it, becomes data.
//!
//! The AP trampoline is one of them: the only one below 1 MiB, where its virtual address is its physical address. Linux
//! starts CPUs before it runs a program, and never moves it: once bound, its base stays.
use core::ops::Range;

use secvisor_approval::PAGE;
use secvisor_approval::wire::{LOW_END, Module, NONE, Region, RegionKind};

use crate::check::{Check, made};
use crate::page::{Circumstances, Match, Mismatch, Place};
use crate::site::{Bindings, Phase};
use crate::{Access, Frame, FrameState, Machine, NO_FRAME, Rule, Rules, Verdict};

/// Refusals for which the closest page is looked for: it takes long.
const NAMED: u64 = 64;

/// Which variables are taken as unbound when a page is compared.
#[derive(Clone, Copy)]
enum Forget {
    Nothing,
    /// Those of the page's own module.
    Own,
    /// All: a module it refers to has been loaded again too, and none of its code has run yet.
    All,
}

/// Which pages a search tries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Among {
    All,
    /// The tracers'.
    Tracers,
    /// Those in which a function begins at this offset.
    Functions(u32),
}

impl Rules<'_> {
    pub(crate) fn verify_module(
        &mut self,
        machine: &mut impl Machine,
        frame: Frame,
        va: u64,
        circumstances: Circumstances,
    ) -> Verdict {
        let inside = (self.view.info.modules_start..self.view.info.modules_end).contains(&va);
        let misplaced = match va < LOW_END {
            true => frame.address() != va,
            false => !self.booted && made(Check::AfterBoot) || !inside && made(Check::ModuleRange),
        };
        if misplaced {
            return self.refuse(Rule::UnapprovedCode, frame, None);
        }
        // Linux writes the trampoline before it starts a CPU there, and waits for that CPU: nobody is in the middle of it.
        let circumstances = Circumstances { patience: circumstances.patience && va >= LOW_END, ..circumstances };
        match self.recognise(machine, frame, va, circumstances, Among::All) {
            Ok(verdict) => verdict,
            // Once: one that is met may end another.
            Err(_) if !circumstances.met && self.meet_callees(machine, frame, va, None) => {
                self.verify_module(machine, frame, va, Circumstances { met: true, ..circumstances })
            }
            Err(Some((place, at))) => self.tampered_or_recycled(machine, frame, &place, at),
            Err(None) => self.refuse(Rule::UnapprovedCode, frame, self.nearest(machine, frame)),
        }
    }

    /// Approves the frame as the page that belongs at this address, by the instances there are, or as what a search finds;
    /// else tells what is wrong with the former.
    pub(crate) fn recognise(
        &mut self,
        machine: &mut impl Machine,
        frame: Frame,
        va: u64,
        circumstances: Circumstances,
        among: Among,
    ) -> Result<Verdict, Option<(Place, Mismatch)>> {
        let mut wrong = None;
        if let Some(page) = self.page_bound_at(va) {
            let place = Place { page, va, phase: Phase::Loaded, circumstances };
            let mut binds = Bindings::new(0..0);
            match self.compare(machine, frame, &place, &mut binds) {
                Ok(found) => return Ok(self.accept(machine, frame, &place, found, &binds)),
                Err(at) => wrong = Some((place, at)),
            }
        }
        self.search(machine, frame, va, circumstances, among).ok_or(wrong)
    }

    /// The module page that belongs at an address, by the instances there are.
    fn page_bound_at(&self, va: u64) -> Option<u32> {
        self.view.regions.iter().filter(|r| r.module != NONE).find_map(|r| {
            let base = self.vars[r.base as usize];
            let inside = va.checked_sub(base).filter(|o| base != 0 && *o < r.pages as u64 * PAGE as u64)?;
            Some(r.first_page + (inside / PAGE as u64) as u32)
        })
    }

    /// Looks for a page of these that the frame is, at this address: first as a further page of an instance there is, then
    /// as one of a module placed anew, then as one whose neighbours have been placed anew too.
    fn search(
        &mut self,
        machine: &mut impl Machine,
        frame: Frame,
        va: u64,
        circumstances: Circumstances,
        among: Among,
    ) -> Option<Verdict> {
        let regions = if among == Among::Tracers { self.tracers.clone() } else { 0..self.view.regions.len() };
        let ways = [Forget::Nothing, Forget::Own, Forget::All];
        for &forget in if va < LOW_END { &ways[..1] } else { &ways[..] } {
            for index in regions.clone() {
                let region = self.view.regions.at(index);
                if region.module == NONE {
                    continue;
                }
                for i in 0..region.pages {
                    let Some(start) = va.checked_sub(i as u64 * PAGE as u64) else { break };
                    let function = |offset| self.view.function_at(&region, i * PAGE as u32 + offset);
                    if matches!(among, Among::Functions(offset) if !function(offset)) {
                        continue;
                    }
                    let page = region.first_page + i;
                    let place = Place { page, va, phase: Phase::Loaded, circumstances };
                    if let Some((found, binds)) = self.matches(machine, frame, &place, start, &region, forget) {
                        return Some(self.accept(machine, frame, &place, found, &binds));
                    }
                }
            }
        }
        None
    }

    /// Compares with one page of a module whose region begins at `start`.
    fn matches(
        &self,
        machine: &impl Machine,
        frame: Frame,
        place: &Place,
        start: u64,
        region: &Region,
        forget: Forget,
    ) -> Option<(Match, Bindings)> {
        if !self.may_match(machine, frame, place.page) {
            return None;
        }
        let module = self.view.modules.at(region.module as usize);
        let mut binds = Bindings::new(match forget {
            Forget::Nothing => 0..0,
            Forget::Own => module.first_var..module.first_var + module.vars,
            Forget::All => 0..self.view.vars.len() as u32,
        });
        let base = region.base as u32;
        match binds.get(self.vars, base) {
            Some(bound) if bound != start && made(Check::Base) => return None,
            None if !binds.bind(&self.view, base, start) => return None,
            _ => {}
        }
        let found = self.compare(machine, frame, place, &mut binds).ok()?;
        (!self.lies_over_itself(&module, &binds)).then_some((found, binds))
    }

    /// Whether a module placed so would have two regions at one address: then the page is another module's, alike but for
    /// what it refers to.
    fn lies_over_itself(&self, module: &Module, binds: &Bindings) -> bool {
        let place = |region: Region| {
            let base = binds.get(self.vars, region.base as u32)?;
            Some(base..base + region.pages as u64 * PAGE as u64)
        };
        let places = |from: usize| {
            let regions = self.view.regions.range(module.first_region as usize, module.regions as usize);
            regions.filter_map(place).skip(from)
        };
        let mut pairs = places(0).enumerate().flat_map(|(i, one)| places(i + 1).map(move |other| (one.clone(), other)));
        pairs.any(|(one, other)| one.start < other.end && other.start < one.end) && made(Check::Overlapped)
    }

    /// Whether every byte outside of sites is this page's: a cheap look before the one at the sites.
    #[inline(never)]
    pub(crate) fn may_match(&self, machine: &impl Machine, frame: Frame, page: u32) -> bool {
        let bytes = machine.page(frame);
        if !self.pages.may_be(page, bytes) {
            return false;
        }
        let mut room = [0; PAGE];
        let Some(reference) = self.pages.get(page, &mut room) else { return false };
        let mut at = 0;
        let same = |covered: Range<usize>| {
            let fixed = at..covered.start;
            at = covered.end;
            bytes[fixed.clone()] == reference[fixed]
        };
        self.view.covered(page as usize).chain(Some(PAGE..PAGE)).all(same)
    }

    fn has_instance(&self, module: u32) -> bool {
        let m = self.view.modules.at(module as usize);
        self.vars[m.first_var as usize..(m.first_var + m.vars) as usize].iter().any(|v| *v != 0)
    }

    /// Approves a page and makes what it binds hold from now on.
    fn accept(
        &mut self,
        machine: &mut impl Machine,
        frame: Frame,
        place: &Place,
        found: Match,
        binds: &Bindings,
    ) -> Verdict {
        for (var, value) in binds.pending() {
            let bound = self.vars[*var as usize];
            if bound != 0 && bound != *value && made(Check::Supersede) {
                self.supersede(machine, self.view.vars.at(*var as usize).module);
            }
        }
        let mut again = binds.anew();
        for (var, value) in binds.pending() {
            again |= self.end_overlapped(machine, *var, *value);
            self.vars[*var as usize] = *value;
        }
        // What was taken as unbound is bound now, and the pages beside this one are known to be, or not to be, of the
        // same instance. Where two modules were found in one place, what this page is placed by or refers to may be
        // gone.
        let mut rest = Bindings::new(0..0);
        if again && made(Check::Again) {
            match self.compare(machine, frame, place, &mut rest) {
                Ok(_) if rest.pending().is_empty() && self.is_placed(place) || !made(Check::Placed) => {}
                Ok(_) => return self.refuse(Rule::WrongPlace, frame, Some((place.page, 0))),
                Err(Mismatch(at)) => return self.refuse(Rule::UnapprovedCode, frame, Some((place.page, at))),
            }
        }
        self.pages.keep(place.page, machine.page(frame));
        self.learn(place, &Bindings::new(0..0));
        self.approve(machine, frame, place.page, found.proof)
    }

    /// Whether a page's region is placed so that the page is at its address.
    fn is_placed(&self, place: &Place) -> bool {
        let region = self.view.regions.at(self.view.region_of_page(place.page));
        let inside = place.va.wrapping_sub(self.vars[region.base as usize]);
        inside == (place.page - region.first_page) as u64 * PAGE as u64
    }

    /// Ends what lies where the code of this variable is placed: an instance that Linux has unloaded, of its own module
    /// as well as of others, or the init text it has freed. Whether there was any.
    fn end_overlapped(&mut self, machine: &mut impl Machine, var: u32, base: u64) -> bool {
        let code = |r: &Region| r.module != NONE && r.base == var as u64;
        let Some(placed) = self.view.regions.iter().find(code) else { return false };
        let mut ended = false;
        let end = base + placed.pages as u64 * PAGE as u64;
        for index in 0..self.view.regions.len() {
            let other = self.view.regions.at(index);
            let at = if other.module == NONE { 0 } else { self.vars[other.base as usize] };
            let overlaps = at != 0 && at < end && base < at + other.pages as u64 * PAGE as u64;
            if !overlaps || other.base == var as u64 || !made(Check::Overlapped) {
                continue;
            }
            ended = true;
            if other.kind == RegionKind::ModuleInit as u32 {
                // Linux frees init text as soon as it has run: the instance goes on without it.
                self.forget_region(machine, &other);
                self.vars[other.base as usize] = 0;
            } else {
                self.supersede(machine, other.module);
            }
        }
        ended
    }

    /// Ends an instance whose module has been placed anew.
    fn supersede(&mut self, machine: &mut impl Machine, module: u32) {
        let m = self.view.modules.at(module as usize);
        let own = m.first_var..m.first_var + m.vars;
        for index in 0..self.view.modules.len() as u32 {
            if index == module || self.refers_to(index, &own) && made(Check::Dependents) {
                self.forget_pages(machine, index);
            }
        }
        self.vars[own.start as usize..own.end as usize].fill(0);
    }

    /// Whether a module's code depends on variables of another.
    fn refers_to(&self, module: u32, vars: &core::ops::Range<u32>) -> bool {
        let first = self.view.modules.at(module as usize).first_expr as usize;
        let end = match module as usize + 1 {
            next if next < self.view.modules.len() => self.view.modules.at(next).first_expr as usize,
            _ => self.view.exprs.len(),
        };
        self.has_instance(module) && self.view.exprs.range(first, end - first).any(|e| vars.contains(&e.var))
    }

    /// Makes every approved page of a module data.
    fn forget_pages(&mut self, machine: &mut impl Machine, module: u32) {
        let m = self.view.modules.at(module as usize);
        for region in self.view.regions.range(m.first_region as usize, m.regions as usize) {
            self.forget_region(machine, &region);
        }
    }

    /// Makes every approved page of a region data.
    fn forget_region(&mut self, machine: &mut impl Machine, region: &Region) {
        for page in region.first_page..region.first_page + region.pages {
            let frame = Frame(self.places[page as usize] as u64);
            if self.places[page as usize] != NO_FRAME && self.frames.get(frame) == FrameState::Approved(page) {
                self.demote(machine, frame, page, Access::Data);
            }
            self.places[page as usize] = NO_FRAME;
        }
    }

    /// A page that is not what belongs at its address: tampered with if it is still in its frame and for the
    /// most part itself, otherwise the frame has been recycled.
    fn tampered_or_recycled(
        &mut self,
        machine: &mut impl Machine,
        frame: Frame,
        place: &Place,
        Mismatch(at): Mismatch,
    ) -> Verdict {
        let nearest = Some((place.page, at));
        let region = self.view.regions.at(self.view.region_of_page(place.page));
        let live = self.places[place.page as usize] as u64 == frame.0 || !made(Check::Live);
        let text = region.kind == RegionKind::ModuleText as u32 || !made(Check::ModuleInit);
        if live && (self.is_similar(machine, frame, place.page) || !made(Check::Similar)) {
            // A tracer is written while it is in use, too.
            if place.circumstances.patience {
                return Verdict::Wait;
            }
            if text {
                return self.put_back(machine, frame, place, at);
            }
        }
        self.refuse(Rule::UnapprovedCode, frame, nearest)
    }

    /// Whether a frame is for the most part a page. Zeros do not count: a page that is mostly padding would look like any
    /// empty frame.
    #[inline(never)]
    fn is_similar(&self, machine: &impl Machine, frame: Frame, page: u32) -> bool {
        let mut room = [0; PAGE];
        let Some(last) = self.pages.get(page, &mut room) else { return false };
        let pairs = machine.page(frame).iter().zip(last);
        let count = |(same, filled), (a, b): (&u8, &u8)| (same + (a == b && *b != 0) as u32, filled + (*b != 0) as u32);
        let (same, filled) = pairs.fold((0, 0), count);
        same * 2 >= filled
    }

    /// The module page a frame comes closest to, for the report: it has the page's probes, and three quarters of the page's
    /// bytes, not counting zeros.
    #[inline(never)]
    fn nearest(&self, machine: &impl Machine, frame: Frame) -> Option<(u32, u16)> {
        if self.counters.refused >= NAMED {
            return None;
        }
        let bytes = machine.page(frame);
        let modules = self.view.regions.iter().filter(|r| r.module != NONE);
        let pages = modules.flat_map(|r| r.first_page..r.first_page + r.pages);
        let mut best = (PAGE * 3 / 4, None);
        let mut room = [0; PAGE];
        for page in pages.filter(|page| self.pages.may_be(*page, bytes)) {
            let Some(reference) = self.pages.get(page, &mut room) else { continue };
            let total = reference.iter().filter(|b| **b != 0).count().max(1);
            let same = bytes.iter().zip(reference).filter(|(a, b)| a == b && **b != 0).count();
            if same * PAGE / total > best.0 {
                let at = bytes.iter().zip(reference).position(|(a, b)| a != b).unwrap_or(0);
                best = (same * PAGE / total, Some((page, at as u16)));
            }
        }
        best.1
    }
}
