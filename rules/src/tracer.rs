//! The function tracer: copies of ftrace's entry code, one for each `ftrace_ops`, which function entries call
//!
//! Linux makes a copy when something is traced, lets function entries call it, and frees it afterwards
//! (`create_trampoline`, `arch/x86/kernel/ftrace.c`). In the approval each copy is a module of one page. A function
//! entry may call it while it is approved.
use secvisor_approval::view::View;
use secvisor_approval::wire::RegionKind;

use crate::{Frame, FrameState, FrameTable, Rules};

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
}
