//! The first user-mode instruction: what only boot may choose is fixed
//!
//! Every kernel page is compared once more under the rules of boot and kept as it is; from then on its choice
//! and constant sites must hold exactly that. Which conditions hold is learnt from the same sites, for the modules
//! to come. A page that is not right is left as data: when it runs, its last verified bytes are put back.
use secvisor_approval::PAGE;
use secvisor_approval::wire::{MAX_VARIANTS, NONE, SiteKind};

use crate::page::Place;
use crate::site::{Bindings, Context, Phase, Seen};
use crate::{Access, Frame, FrameState, Machine, Rules, Verdict};

impl Rules<'_> {
    pub(crate) fn pin(&mut self, machine: &mut impl Machine) -> Verdict {
        if self.booted {
            return Verdict::Resume;
        }
        let kernel_pages = self.view.regions.iter().filter(|r| r.module == NONE).map(|r| r.pages).sum();
        for page in 0..kernel_pages {
            let Some(frame) = self.frame_of_kernel_page(page) else { continue };
            if self.frames.get(frame) == FrameState::Data {
                self.settle(machine, frame, page);
            }
            if self.frames.get(frame) == FrameState::Approved(page) {
                self.learn(&self.kernel_place(page), &Bindings::new(0..0));
            }
        }
        self.booted = true;
        // Linux frees init text before it runs init; unless a helper ran earlier, this is the first we hear of it.
        self.init_over |= self.init_approved == 0 && self.init_pages > 0;
        Verdict::Resume
    }

    /// Approves a page that was rewritten since it last ran.
    fn settle(&mut self, machine: &mut impl Machine, frame: Frame, page: u32) {
        if machine.set_access(frame, Access::Frozen).is_err() {
            return;
        }
        let place = self.kernel_place(page);
        match self.compare(machine, frame, &place, &mut Bindings::new(0..0)) {
            Ok(found) => {
                self.pages.keep(page, machine.page(frame));
                let _resume_or_out_of_tables = self.approve(machine, frame, page, found.proof);
            }
            Err(_) => machine.set_access(frame, Access::Data).expect("a frame that was set apart stays so"),
        }
    }

    /// Learns which conditions hold from the choice sites of a page whose last verified bytes are current.
    #[inline(never)]
    pub(crate) fn learn(&mut self, place: &Place, binds: &Bindings) {
        let mut room = [0; PAGE];
        let Some(last) = self.pages.get(place.page, &mut room) else { return };
        for index in self.view.sites_of(place.page as usize) {
            let site = self.view.sites.at(index);
            if site.kind() != Some(SiteKind::Choice) {
                continue;
            }
            let (offset, len) = (site.offset(), self.view.site_len(&site));
            if offset + len > PAGE {
                continue;
            }
            let seen = Seen { bytes: &last[offset..offset + len], low: 0, high: len };
            let context = Context { phase: Phase::Loaded, ..self.context(place) };
            let mut conds = [0u16; MAX_VARIANTS];
            let Some(found) = context.chosen(&site, place.va + offset as u64, &seen, binds) else { continue };
            let count = conds.iter_mut().zip(found).map(|(slot, cond)| *slot = cond).count();
            self.choices.learn(conds[..count].iter().copied());
        }
    }
}
