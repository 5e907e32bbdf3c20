//! The function tracer: copies of ftrace's entry code, one for each `ftrace_ops`, which function entries call
//!
//! Linux makes a copy when something is traced, lets function entries call it, and frees it afterwards
//! (`create_trampoline`, `arch/x86/kernel/ftrace.c`). In the approval each copy is a module of one page. A function
//! entry may call it while it is approved. Since entries are looked at before they are executed, and so before the copy
//! is, a page that is wrong otherwise has the copies it calls looked at first.
use secvisor_approval::view::View;
use secvisor_approval::wire::RegionKind;

use crate::page::Circumstances;
use crate::{Access, Frame, FrameState, FrameTable, Machine, Rules, Verdict};

/// Most copies that are looked at for one page.
const MOST: usize = 8;

/// Which tracers there are.
pub(crate) struct Tracers<'t, 'a> {
    pub view: &'t View<'a>,
    pub frames: &'t FrameTable<'a>,
    pub places: &'t [u32],
    pub vars: &'t [u64],
    /// The regions among which they are.
    pub regions: core::ops::Range<usize>,
}

impl Tracers<'_, '_> {
    /// Addresses of those that are approved now.
    pub(crate) fn live(&self) -> impl Iterator<Item = u64> {
        let regions = self.view.regions.range(self.regions.start, self.regions.len());
        let tracers = regions.filter(|r| r.kind == RegionKind::Tracer as u32);
        let approved = tracers.filter(|r| {
            let frame = Frame(self.places[r.first_page as usize] as u64);
            self.frames.get(frame) == FrameState::Approved(r.first_page)
        });
        approved.map(|r| self.vars[r.base as usize])
    }
}

impl<'a> Rules<'a> {
    pub(crate) fn tracers(&self) -> Tracers<'_, 'a> {
        Tracers {
            view: &self.view,
            frames: &self.frames,
            places: self.places,
            vars: self.vars,
            regions: self.tracers.clone(),
        }
    }

    /// Looks at what the frozen `frame`, mapped at `va`, calls at the beginning of pages in the modules' range. Whether
    /// anything of it has been approved.
    pub(crate) fn meet_tracers(&mut self, machine: &mut impl Machine, frame: Frame, va: u64) -> bool {
        if self.tracers.is_empty() || !self.booted {
            return false;
        }
        let mut called = [0; MOST];
        let mut count = 0;
        for (at, bytes) in machine.page(frame).windows(5).enumerate() {
            let [0xe8 | 0xcc, a, b, c, d] = *bytes else { continue };
            let target =
                (va & !0xfff).wrapping_add(at as u64 + 5).wrapping_add_signed(i32::from_le_bytes([a, b, c, d]) as i64);
            let inside = (self.view.info.modules_start..self.view.info.modules_end).contains(&target);
            if inside && target.is_multiple_of(4096) && count < MOST && !called[..count].contains(&target) {
                called[count] = target;
                count += 1;
            }
        }
        // Not `any`: all of them.
        called[..count].iter().filter(|target| self.meet(machine, frame, **target)).count() > 0
    }

    /// Approves the tracer at `va`, if there is one that is not approved yet.
    fn meet(&mut self, machine: &mut impl Machine, caller: Frame, va: u64) -> bool {
        let Some(frame) = machine.translate(va) else { return false };
        // The caller is under comparison: it is frozen, and stays so.
        let data = frame != caller && self.frames.get(frame) == FrameState::Data;
        if !data || self.tracers().live().any(|live| live == va) {
            return false;
        }
        if machine.set_access(frame, Access::Frozen).is_err() {
            return false;
        }
        let found = self.search(machine, frame, va, Circumstances::default(), self.tracers.clone());
        let met = matches!(found, Some(Verdict::Resume));
        if !met {
            machine.set_access(frame, Access::Data).expect("a frame that was set apart stays so");
        }
        met
    }
}
