//! What a page calls is looked at before the page, where it must be
//!
//! A page is approved when it is fetched, and so before what it calls has run. Two kinds of sites may call only what is
//! approved, or has its place: function entries a tracer ([`crate::tracer`]), static calls a function. Linux puts a
//! function of a module there before anything but the module's init text has run, or even nothing (`libeth_attach_xdp`,
//! `drivers/net/ethernet/intel/libeth`). So a page that is wrong otherwise has what it calls looked at first, as if that had
//! been fetched, but not what that calls in turn. This gives nobody anything: whoever can write the call can make the fetch.
use secvisor_approval::PAGE;
use secvisor_approval::wire::{NONE, SiteKind};

use crate::module::Among;
use crate::page::{Circumstances, Place};
use crate::site::{Bindings, Phase};
use crate::{Access, Frame, FrameState, Machine, Rules, Verdict};

/// Most pages that are looked at for one.
const MOST: usize = 8;
/// Bytes of a call or a jump.
const BRANCH: usize = 5;

/// Addresses of pages, each once for what is expected there.
#[derive(Default)]
struct Callees {
    pages: [Option<(u64, Among)>; MOST],
}

impl Callees {
    fn add(&mut self, page: u64, among: Among) {
        if self.pages.contains(&Some((page, among))) {
            return;
        }
        if let Some(free) = self.pages.iter_mut().find(|p| p.is_none()) {
            *free = Some((page, among));
        }
    }
}

impl Rules<'_> {
    /// Looks at what the frozen `frame`, at `va`, calls in the modules' range: what begins a page, which may be a tracer,
    /// and what is called by static calls of the page of the approval it may be, `page` if that is known. Whether anything
    /// has been approved.
    pub(crate) fn meet_callees(
        &mut self,
        machine: &mut impl Machine,
        frame: Frame,
        va: u64,
        page: Option<u32>,
    ) -> bool {
        if !self.booted {
            return false;
        }
        let mut callees = Callees::default();
        if !self.tracers.is_empty() {
            for (at, branch) in machine.page(frame).windows(BRANCH).enumerate() {
                let target = self.target(0xe8, branch, va + at as u64).filter(|target| target.is_multiple_of(4096));
                target.inspect(|target| callees.add(*target, Among::Tracers));
            }
        }
        match page {
            Some(page) => self.add_functions(machine, frame, va, page, &mut callees),
            None => {
                let modules = self.view.regions.iter().filter(|r| r.module != NONE);
                let pages = modules.flat_map(|r| r.first_page..r.first_page + r.pages);
                let candidates = pages.filter(|page| self.may_match(machine, frame, *page));
                candidates.take(MOST).for_each(|page| self.add_functions(machine, frame, va, page, &mut callees));
            }
        }
        // Not `any`: all of them.
        callees.pages.into_iter().flatten().filter(|(va, among)| self.meet(machine, frame, *va, *among)).count() > 0
    }

    /// Adds where a page's static calls lead, outside of its own region, where no function is known yet.
    fn add_functions(&self, machine: &impl Machine, frame: Frame, va: u64, page: u32, callees: &mut Callees) {
        let region = self.view.regions.at(self.view.region_of_page(page));
        // The last site of the page before may end in this one.
        let before = (page > region.first_page).then(|| self.view.sites_of(page as usize - 1).last()).flatten();
        let before = before.map(|site| (site, -(PAGE as i64)));
        let own = self.view.sites_of(page as usize).map(|site| (site, 0));
        let place = Place { page, va, phase: Phase::Loaded, circumstances: Circumstances::default() };
        let (context, none) = (self.context(&place), Bindings::new(0..0));
        let start = va.wrapping_sub((page - region.first_page) as u64 * PAGE as u64);
        let known = |target: u64| {
            target.wrapping_sub(start) < region.pages as u64 * PAGE as u64 || context.is_function(target, &none)
        };
        for (site, from) in before.into_iter().chain(own) {
            let site = self.view.sites.at(site);
            let opcode = match site.kind() {
                Some(SiteKind::StaticCall) => 0xe8,
                Some(SiteKind::StaticJump | SiteKind::Trampoline) => 0xe9,
                _ => continue,
            };
            let at = from + site.offset() as i64;
            if at + BRANCH as i64 <= 0 {
                continue;
            }
            let Some(branch) = self.branch(machine, frame, &place, at) else { continue };
            let target = self.target(opcode, &branch, va.wrapping_add_signed(at));
            if let Some(target) = target.filter(|target| !known(*target)) {
                callees.add(target & !0xfff, Among::Functions((target & 0xfff) as u32));
            }
        }
    }

    /// The bytes of a branch at an offset of a page, some of which may lie in a page beside it.
    fn branch(&self, machine: &impl Machine, frame: Frame, place: &Place, at: i64) -> Option<[u8; BRANCH]> {
        let mut bytes = [0; BRANCH];
        for (byte, at) in bytes.iter_mut().zip(at..) {
            let (pages, offset) = (at.div_euclid(PAGE as i64), at.rem_euclid(PAGE as i64));
            let holder = match pages {
                0 => frame,
                _ => {
                    let (page, va) = ((place.page as i64 + pages) as u32, place.va.wrapping_add_signed(at - offset));
                    self.neighbour(machine, page, va, &Bindings::new(0..0))?
                }
            };
            machine.read(holder, offset as usize, core::slice::from_mut(byte));
        }
        Some(bytes)
    }

    /// Where a branch leads, if into the modules' range. Its first byte may be INT3 for now.
    fn target(&self, opcode: u8, branch: &[u8], va: u64) -> Option<u64> {
        let [first, a, b, c, d] = *branch else { return None };
        if first != opcode && first != 0xcc {
            return None;
        }
        let target = va.wrapping_add(BRANCH as u64).wrapping_add_signed(i32::from_le_bytes([a, b, c, d]) as i64);
        (self.view.info.modules_start..self.view.info.modules_end).contains(&target).then_some(target)
    }

    /// Approves the page at `va`, if it is not approved yet and is a module's.
    fn meet(&mut self, machine: &mut impl Machine, caller: Frame, va: u64, among: Among) -> bool {
        let Some(frame) = machine.translate(va) else { return false };
        // The caller is under comparison: it is frozen, and stays so. In the kernel's frames is the kernel (INV-4).
        let data = frame != caller && self.frames.get(frame) == FrameState::Data && !self.is_kernels(frame);
        if !data || self.tracers().live().any(|live| live == va) {
            return false;
        }
        if machine.set_access(frame, Access::Frozen).is_err() {
            return false;
        }
        let found = self.recognise(machine, frame, va, Circumstances::default(), among);
        let met = matches!(found, Ok(Verdict::Resume));
        if !met {
            machine.set_access(frame, Access::Data).expect("a frame that was set apart stays so");
        }
        met
    }
}
