//! A kernel-mode fetch from a frame that is not executable: freeze, compare, approve or refuse
use crate::check::{Check, made};
use secvisor_approval::PAGE;

use crate::page::{Circumstances, Match, Mismatch, Place};
use crate::site::{Bindings, Phase};
use crate::step::OutOfTables;
use crate::{Access, Frame, FrameState, Machine, Rule, Rules, Verdict, Violation};

/// Most bytes that may run before a trap flag takes effect: an instruction has up to 15 (APM 3, 1.1), and one that
/// loads SS puts the trap off until after the next.
const MAX_STEP: usize = 30;

impl Rules<'_> {
    pub(crate) fn kernel_fetch(
        &mut self,
        machine: &mut impl Machine,
        frame: Frame,
        va: u64,
        circumstances: Circumstances,
    ) -> Verdict {
        match self.frames.get(frame) {
            // A stale translation: the right has been given meanwhile.
            FrameState::Approved(_) => Verdict::Resume,
            FrameState::Device => self.refuse(Rule::DeviceFetch, frame, None),
            FrameState::Hypervisor => self.refuse(Rule::HypervisorMemory, frame, None),
            FrameState::Data => {
                // INV-2: nobody can change it from here on.
                if made(Check::Freeze) && machine.set_access(frame, Access::Frozen).is_err() {
                    return self.refuse(Rule::OutOfTables, frame, None);
                }
                let verdict = match self.kernel_page_of_frame(frame) {
                    Some(page) if !self.is_freed(page) => self.verify_kernel(machine, frame, page, va, circumstances),
                    _ => self.verify_module(
                        machine,
                        frame,
                        va & !0xfff,
                        Circumstances { patching: false, ..circumstances },
                    ),
                };
                if let Verdict::Refuse(_) | Verdict::Wait = verdict {
                    machine.set_access(frame, Access::Data).expect("a frame that was set apart stays so");
                }
                verdict
            }
        }
    }

    fn verify_kernel(
        &mut self,
        machine: &mut impl Machine,
        frame: Frame,
        page: u32,
        va: u64,
        circumstances: Circumstances,
    ) -> Verdict {
        let init = self.is_init(page);
        let place = Place { circumstances, ..self.kernel_place(page) };
        match self.compare(machine, frame, &place, &mut Bindings::new(0..0)) {
            Ok(Match { proof, unfinished: None }) => {
                self.pages.keep(page, machine.page(frame));
                self.approve(machine, frame, page, proof)
            }
            Ok(Match { unfinished: Some(site), .. }) => {
                // None of the instruction's bytes may be unverified. Before user mode runs, instructions begin where
                // the approval says, so that none reaches into a site from before; later any could come.
                let (at, longest) = ((va & 0xfff) as usize, if self.booted { MAX_STEP } else { 1 });
                // They may run on at the beginning of the next page, which may be this one, too.
                let over = (at + MAX_STEP).saturating_sub(PAGE).min(longest);
                let wraps = site.start < over;
                if made(Check::Reach) && (at < site.end && site.start < at + longest || wraps) {
                    return match init {
                        _ if circumstances.patience => Verdict::Wait,
                        true => self.refuse(Rule::UnapprovedCode, frame, Some((page, site.start as u16))),
                        false => self.put_back(machine, frame, &place, site.start as u16),
                    };
                }
                Verdict::Step
            }
            // Once: one that is met may end another.
            Err(_) if !circumstances.met && self.meet_callees(machine, frame, place.va, Some(page)) => {
                self.verify_kernel(machine, frame, page, va, Circumstances { met: true, ..circumstances })
            }
            Err(_) if circumstances.patience => Verdict::Wait,
            Err(Mismatch(at)) if init && made(Check::InitPutBack) => {
                self.refuse(Rule::UnapprovedCode, frame, Some((page, at)))
            }
            Err(Mismatch(at)) => self.put_back(machine, frame, &place, at),
        }
    }

    /// Where a kernel page is and how it is to be looked at now.
    pub(crate) fn kernel_place(&self, page: u32) -> Place {
        let region = self.view.regions.at(self.view.region_of_page(page));
        let va = region.base + (page - region.first_page) as u64 * 4096;
        Place {
            page,
            va,
            phase: if self.booted { Phase::Pinned } else { Phase::Boot },
            circumstances: Circumstances::default(),
        }
    }

    /// Puts the bytes last verified back into a tampered frame and approves it.
    #[inline(never)]
    pub(crate) fn put_back(&mut self, machine: &mut impl Machine, frame: Frame, place: &Place, at: u16) -> Verdict {
        if let Some(last) = self.pages.get(place.page, &mut [0; PAGE]) {
            machine.restore(frame, last);
        }
        let violation = Violation { rule: Rule::Tampered, frame, nearest: Some((place.page, at)) };
        let place = &Place { circumstances: Circumstances::default(), ..*place };
        match self.compare(machine, frame, place, &mut Bindings::new(0..0)) {
            Ok(found) => {
                self.counters.restored += 1;
                match self.approve(machine, frame, place.page, found.proof) {
                    Verdict::Resume => Verdict::Restored(violation),
                    other => other,
                }
            }
            Err(_) => self.refuse(Rule::Tampered, frame, violation.nearest),
        }
    }

    /// `INV-1`: the only place where a frame becomes executable after launch.
    pub(crate) fn approve(
        &mut self,
        machine: &mut impl Machine,
        frame: Frame,
        page: u32,
        proof: crate::Approved,
    ) -> Verdict {
        match machine.set_access(frame, Access::Executable(proof)) {
            Ok(()) => {
                // A module that was loaded again in the same place: its old frame is no longer part of it.
                let before = Frame(self.places[page as usize] as u64);
                if made(Check::OneFrame) && before != frame && self.frames.get(before) == FrameState::Approved(page) {
                    self.demote(machine, before, page, Access::Data);
                }
                self.note_approved(page, frame);
                self.counters.verified += 1;
                Verdict::Resume
            }
            Err(OutOfTables) => self.refuse(Rule::OutOfTables, frame, None),
        }
    }

    pub(crate) fn refuse(&mut self, rule: Rule, frame: Frame, nearest: Option<(u32, u16)>) -> Verdict {
        self.counters.refused += 1;
        Verdict::Refuse(Violation { rule, frame, nearest })
    }
}
