//! A write to an approved frame: it becomes data
use crate::{Access, Frame, FrameState, Machine, Rule, Rules, Verdict, Violation};

impl Rules<'_> {
    /// `INV-3`: the right to execute is gone, on every CPU, before the right to write is given.
    pub(crate) fn write(&mut self, machine: &mut impl Machine, frame: Frame, from_within: bool) -> Verdict {
        match self.frames.get(frame) {
            FrameState::Approved(page) => {
                self.counters.writes += 1;
                self.counters.writes_after_boot += self.booted as u64;
                if from_within {
                    self.demote(machine, frame, page, Access::Frozen);
                    return Verdict::Step;
                }
                self.demote(machine, frame, page, Access::Data);
                Verdict::Resume
            }
            FrameState::Data => {
                // Frozen since the guest stepped in it, a right that another CPU has just given, or a stale translation.
                let _no_room_means_never_frozen = machine.set_access(frame, Access::Data);
                Verdict::Resume
            }
            FrameState::Device => Verdict::Resume,
            FrameState::Hypervisor => Verdict::Refuse(Violation { rule: Rule::HypervisorMemory, frame, nearest: None }),
        }
    }

    /// Makes an approved frame data, with these rights.
    pub(crate) fn demote(&mut self, machine: &mut impl Machine, frame: Frame, page: u32, access: Access) {
        machine.set_access(frame, access).expect("a frame that was set apart stays so");
        self.frames.set(frame, None);
        self.counters.approved -= 1;
        if self.is_init(page) {
            self.init_approved -= 1;
            // Boot is over when all of init text has been overwritten: Linux has freed it. It never comes back.
            self.init_over |= self.booted && self.init_approved == 0 && self.init_pages > 0;
        }
    }
}
