//! Nested page faults: every one is decided
use secvisor_amd64::event::{Event, vector};
use secvisor_amd64::exit::NestedFault;
use secvisor_rules::{Event as RulesEvent, Frame, FrameState, Rule, Verdict, Violation};

use crate::cpu::instr;
use crate::mem::npt::{self, View};
use crate::vcpu::Vcpu;
use crate::window::Purpose;

/// Cycles of the time-stamp counter between two tries to execute a page that is not right yet: some 50 us.
const WAIT: u64 = 150_000;

impl Vcpu {
    #[inline]
    pub(crate) fn nested_page_fault(&mut self) {
        let fault = NestedFault(self.vmcb.control.exit_info1);
        let frame = Frame::containing(self.vmcb.control.exit_info2);
        let user = self.vmcb.save.cpl == 3;
        let delivering = Event(self.vmcb.control.exit_int_info).valid();
        // The common case first: the kernel has returned to user mode. Whether it may execute there the user view says.
        if user && fault.fetch_of_page() && self.view == View::Kernel && !delivering {
            self.enter_user();
        } else {
            self.decide(fault, frame, user);
        }
    }

    #[inline(never)]
    fn decide(&mut self, fault: NestedFault, frame: Frame, user: bool) {
        self.note_paging();
        // At least: the translation that was used may be older than a right that has been given since.
        self.flush = true;
        match (fault.fetch(), user) {
            _ if fault.table_walk() => self.table_walk(frame),
            (true, true) => self.user_fetch(frame),
            (true, false) => self.kernel_fetch(frame),
            (false, _) => self.data_access(frame),
        }
        self.redeliver();
    }

    /// What the rules know of a frame just now.
    fn state(&self, frame: Frame) -> FrameState {
        self.machine.core.lock().rules.frames().get(frame)
    }

    /// The guest's tables lead through this frame.
    fn table_walk(&mut self, frame: Frame) {
        match self.state(frame) {
            FrameState::Data | FrameState::Device => {}
            FrameState::Approved(_) | FrameState::Hypervisor => {
                self.violation(Violation { rule: Rule::PageTable, frame, nearest: None });
                self.refuse_access(Event::exception_with(vector::GP, 0));
            }
        }
    }

    fn user_fetch(&mut self, frame: Frame) {
        match self.state(frame) {
            // A stale translation, or a return to user mode that an event has overtaken.
            FrameState::Data => {}
            FrameState::Approved(_) | FrameState::Device | FrameState::Hypervisor => {
                self.violation(Violation { rule: Rule::UserFetch, frame, nearest: None });
                self.set_cr2(self.linear_rip());
                self.deliver(Event::exception_with(vector::PF, 0x15));
            }
        }
    }

    fn kernel_fetch(&mut self, frame: Frame) {
        assert!(self.view == View::Kernel, "CPL 0 in the user view");
        let va = self.fetch_address(frame);
        let patching = self.patching.take() == Some(frame);
        let machine = self.machine;
        let mut core = machine.core.lock();
        let cpus = machine.crowd.cpus.len();
        let tries = core.suspects.tries(frame, cpus).filter(|_| cpus > 1);
        let verdict = self.step(
            &mut core,
            RulesEvent::KernelFetch { frame, va: va & !0xfff | self.linear_rip() & 0xfff, patching, tries },
        );
        match verdict {
            Verdict::Step if self.open_window(&core, Purpose::SelfPatch, [Some(frame), None]) => return,
            Verdict::Wait => core.suspects.note(frame),
            _ => core.suspects.forget(frame),
        }
        drop(core);
        if let Verdict::Wait = verdict {
            // Each try makes the CPU that is writing exit: let it get on.
            instr::pause_for(WAIT);
        }
        self.apply(verdict, Some(va));
    }

    /// Which of the two pages an instruction can lie on the fault is for.
    fn fetch_address(&self, frame: Frame) -> u64 {
        let rip = self.linear_rip();
        let next = (rip | 0xfff).wrapping_add(1);
        let in_frame = |va: u64| self.walk(va).map(Frame::containing) == Some(frame);
        if !in_frame(rip) && in_frame(next) { next } else { rip }
    }

    fn data_access(&mut self, frame: Frame) {
        // Without the lock: in xAPIC mode the end of every interrupt comes here.
        if self.is_apic(frame) && self.apic_store(self.vmcb.control.exit_info2) {
            return;
        }
        match self.state(frame) {
            FrameState::Approved(_) => self.write(frame, self.writes_itself(frame)),
            FrameState::Hypervisor => self.absent(frame),
            // Above what nested tables of four levels can map: no such memory.
            FrameState::Device if frame.address() >= npt::LIMIT => {
                self.refuse_access(Event::exception_with(vector::GP, 0));
            }
            FrameState::Device if self.machine.core.lock().tables.is_held(frame) => self.held(frame),
            // Frozen since the guest stepped in it, or a stale translation.
            FrameState::Data => self.write(frame, false),
            FrameState::Device => {}
        }
    }

    /// A device frame that is read-only: an APIC's, or one that decides what is RAM.
    fn held(&mut self, frame: Frame) {
        let apic = self.is_apic(frame);
        if !apic {
            self.violation(Violation { rule: Rule::HeldDevice, frame, nearest: None });
        }
        let purpose = if apic { Purpose::Apic(self.vmcb.control.exit_info2) } else { Purpose::Absent };
        let machine = self.machine;
        let core = machine.core.lock();
        if !self.open_window(&core, purpose, [Some(frame), None]) {
            drop(core);
            self.refuse_access(Event::exception_with(vector::GP, 0));
        }
    }

    /// Memory the guest does not have: reads give ones, writes come to nothing.
    fn absent(&mut self, frame: Frame) {
        self.stats().absent.add();
        if self.stats().absent.get().is_power_of_two() {
            self.violation(Violation { rule: Rule::HypervisorMemory, frame, nearest: None });
        }
        // An instruction that touches two such frames needs both at once.
        let rip = self.vmcb.save.rip;
        let other = self.absent_before.filter(|(at, before)| *at == rip && *before != frame).map(|(_, before)| before);
        self.absent_before = Some((rip, frame));
        let machine = self.machine;
        let core = machine.core.lock();
        if !self.open_window(&core, Purpose::Absent, [Some(frame), other]) {
            drop(core);
            self.refuse_access(Event::exception_with(vector::GP, 0));
        }
    }

    /// Whether the exit interrupted the delivery of an event.
    pub(super) fn interrupted(&self) -> bool {
        Event(self.vmcb.control.exit_int_info).valid()
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
            && [rip, rip + 14].iter().any(|va| self.walk(*va).map(Frame::containing) == Some(frame))
    }

    /// A frame that is not writable is about to be written to, `from_within` by an instruction that lies in it. Where an
    /// event is being delivered it is the processor that writes.
    fn write(&mut self, frame: Frame, from_within: bool) {
        let from_within = from_within && !self.interrupted();
        let machine = self.machine;
        let mut core = machine.core.lock();
        let mut verdict = self.step(&mut core, RulesEvent::Write { frame, from_within });
        if let Verdict::Step = verdict {
            if self.open_window(&core, Purpose::SelfPatch, [Some(frame), None]) {
                return;
            }
            verdict = self.step(&mut core, RulesEvent::Write { frame, from_within: false });
        }
        drop(core);
        self.apply(verdict, None);
    }

    /// A frame was written to in a window.
    pub(crate) fn patched(&mut self, frame: Frame) {
        self.write(frame, false);
    }
}
