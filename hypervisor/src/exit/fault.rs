//! Nested page faults: every one is decided
use secvisor_amd64::event::{Event, vector};
use secvisor_amd64::exit::NestedFault;
use secvisor_rules::{Event as RulesEvent, Frame, FrameState, Rule, Verdict, Violation};

use crate::mem::npt::{self, View};
use crate::vcpu::Vcpu;
use crate::window::Purpose;

impl Vcpu {
    #[inline]
    pub(crate) fn nested_page_fault(&mut self) {
        let fault = NestedFault(self.vmcb.control.exit_info1);
        let frame = Frame::containing(self.vmcb.control.exit_info2);
        let user = self.vmcb.save.cpl == 3;
        let delivering = Event(self.vmcb.control.exit_int_info).valid();
        let returned = user && fault.fetch_of_page() && self.view == View::Kernel && !delivering;
        // The common case first: the kernel has returned to user mode.
        if returned && self.rules.frames().is_data(frame) {
            self.enter_user();
        } else {
            self.decide(fault, frame, user);
        }
    }

    #[inline(never)]
    fn decide(&mut self, fault: NestedFault, frame: Frame, user: bool) {
        self.note_paging();
        let state = self.rules.frames().get(frame);
        match (fault.fetch(), user) {
            _ if fault.table_walk() => self.table_walk(frame, state),
            (true, true) => self.user_fetch(frame, state),
            (true, false) => self.kernel_fetch(frame),
            (false, _) => self.data_access(frame, state),
        }
        self.redeliver();
    }

    /// The guest's tables lead through this frame.
    fn table_walk(&mut self, frame: Frame, state: FrameState) {
        match state {
            FrameState::Data | FrameState::Device => self.nested.flush = true,
            FrameState::Approved(_) | FrameState::Hypervisor => {
                self.violation(Violation { rule: Rule::PageTable, frame, nearest: None });
                self.refuse_access(Event::exception_with(vector::PF, 0));
            }
        }
    }

    fn user_fetch(&mut self, frame: Frame, state: FrameState) {
        match state {
            // A stale translation, or a return to user mode that an event has overtaken.
            FrameState::Data => self.nested.flush = true,
            FrameState::Approved(_) | FrameState::Device | FrameState::Hypervisor => {
                self.violation(Violation { rule: Rule::UserFetch, frame, nearest: None });
                self.vmcb.save.cr2 = self.linear_rip();
                self.deliver(Event::exception_with(vector::PF, 0x15));
            }
        }
    }

    fn kernel_fetch(&mut self, frame: Frame) {
        assert!(self.view == View::Kernel, "CPL 0 in the user view");
        let va = self.fetch_address(frame);
        self.nested.flush = true;
        let patching = self.patching.take() == Some(frame);
        match self.rules.step(&mut self.nested, RulesEvent::KernelFetch { frame, va, patching }) {
            Verdict::Step(_) if self.open_window(Purpose::SelfPatch, [Some(frame), None]) => {}
            verdict => self.apply(verdict, Some(va)),
        }
    }

    /// Which of the two pages an instruction can lie on the fault is for.
    fn fetch_address(&self, frame: Frame) -> u64 {
        let rip = self.linear_rip();
        let next = (rip | 0xfff).wrapping_add(1);
        let in_frame = |va: u64| self.nested.walk(va).map(Frame::containing) == Some(frame);
        if !in_frame(rip) && in_frame(next) { next } else { rip }
    }

    fn data_access(&mut self, frame: Frame, state: FrameState) {
        match state {
            FrameState::Approved(_) if self.writes_itself(frame) => {
                if !self.open_window(Purpose::SelfPatch, [Some(frame), None]) {
                    self.patched(Some(frame));
                }
            }
            FrameState::Approved(_) => self.patched(Some(frame)),
            FrameState::Hypervisor => self.absent(frame),
            FrameState::Device if self.nested.is_held(frame) => {
                self.violation(Violation { rule: Rule::HeldDevice, frame, nearest: None });
                if !self.open_window(Purpose::Absent, [Some(frame), None]) {
                    self.refuse_access(Event::exception_with(vector::GP, 0));
                }
            }
            // Above what nested tables of four levels can map: no such memory.
            FrameState::Device if frame.address() >= npt::LIMIT => {
                self.refuse_access(Event::exception_with(vector::GP, 0));
            }
            FrameState::Data | FrameState::Device => self.nested.flush = true,
        }
    }

    /// Memory the guest does not have: reads give ones, writes come to nothing.
    fn absent(&mut self, frame: Frame) {
        self.stats.absent += 1;
        if self.stats.absent.is_power_of_two() {
            self.violation(Violation { rule: Rule::HypervisorMemory, frame, nearest: None });
        }
        // An instruction that touches two such frames needs both at once.
        let rip = self.vmcb.save.rip;
        let other = self.absent_before.filter(|(at, before)| *at == rip && *before != frame).map(|(_, before)| before);
        self.absent_before = Some((rip, frame));
        if !self.open_window(Purpose::Absent, [Some(frame), other]) {
            self.refuse_access(Event::exception_with(vector::GP, 0));
        }
    }

    /// Refuses an access by this event, or as the processor would if it was made to deliver another.
    fn refuse_access(&mut self, event: Event) {
        let interrupted = Event(self.vmcb.control.exit_int_info);
        if interrupted.valid() {
            self.fault_in_delivery(interrupted);
        } else {
            self.deliver(event);
        }
    }

    /// Whether the instruction lies, or may end, in the frame it writes.
    fn writes_itself(&self, frame: Frame) -> bool {
        let rip = self.linear_rip();
        self.view == View::Kernel
            && self.vmcb.save.cpl != 3
            && [rip, rip + 14].iter().any(|va| self.nested.walk(*va).map(Frame::containing) == Some(frame))
    }

    /// An approved frame was, or is about to be, written to.
    pub(crate) fn patched(&mut self, frame: Option<Frame>) {
        if let Some(frame) = frame {
            let verdict = self.rules.step(&mut self.nested, RulesEvent::Write { frame });
            self.apply(verdict, None);
        }
    }
}
