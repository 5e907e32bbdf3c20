//! Windows: one instruction with rights it otherwise would not have
//!
//! Three things need one: an instruction that writes the page it is fetched from while Linux patches itself, an
//! access to memory the guest does not have, and a segment load of a user program. In each case one nested entry is
//! replaced, the trap flag is set, every event exits, and whichever exit comes first closes the window before
//! anything else happens.
use secvisor_amd64::event::{Event, vector};
use secvisor_amd64::exit::Exit;
use secvisor_amd64::intercept::misc1;
use secvisor_amd64::{msr, reg};
use secvisor_rules::{Frame, Rule, Violation};

use crate::cpu::instr;
use crate::mem::npt::{NestedTables, View};
use crate::vcpu::Vcpu;

/// What a window is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The instruction writes the approved frame it is fetched from.
    SelfPatch,
    /// The instruction touches memory the guest does not have; it sees a scratch frame.
    Absent,
    /// A segment load in user mode.
    Segment,
    /// A write of this MSR that the rules allow: the processor executes it, its own checks included.
    Msr(u32),
}

/// An open window.
pub struct Window {
    purpose: Purpose,
    view: View,
    frames: [Option<(Frame, u64)>; 2],
    trap: u64,
    syscall_enable: u64,
    dr6: u64,
    /// DEBUG_CTL as the guest set it.
    debug_control: u64,
    /// The instruction loads RFLAGS itself.
    loads_flags: bool,
}

/// A frame of ones, in place of memory the guest does not have.
#[repr(C, align(4096))]
pub struct Scratch([u8; 4096]);

impl Scratch {
    /// As the guest finds it.
    pub const NEW: Self = Self([0xff; 4096]);
}

impl Vcpu {
    /// Opens a window on up to two different frames. `false` if the tables have no room, or if an event is being
    /// delivered: it would be the event that runs with the window's rights.
    pub(crate) fn open_window(&mut self, purpose: Purpose, frames: [Option<Frame>; 2]) -> bool {
        if Event(self.vmcb.control.exit_int_info).valid() {
            return false;
        }
        let mut replaced = [None; 2];
        for (slot, frame) in replaced.iter_mut().zip(frames) {
            let Some(frame) = frame else { continue };
            let entry = match purpose {
                Purpose::SelfPatch | Purpose::Segment => NestedTables::open_entry(frame, true),
                Purpose::Msr(_) => continue,
                Purpose::Absent => NestedTables::open_entry(Frame::containing(&raw const *self.scratch as u64), false),
            };
            match self.nested.replace(self.view, frame, entry) {
                Ok(old) => *slot = Some((frame, old)),
                Err(_) => {
                    for (frame, old) in replaced.into_iter().rev().flatten() {
                        let _ = self.nested.replace(self.view, frame, old);
                    }
                    return false;
                }
            }
        }
        self.stats.windows += 1;
        // SAFETY: every processor with SVM has DEBUG_CTL; with BTF clear the trap flag traps after one instruction.
        let debug_control = unsafe {
            let guest = instr::rdmsr(msr::DEBUG_CTL);
            if guest & msr::DEBUG_CTL_BTF != 0 {
                instr::wrmsr(msr::DEBUG_CTL, guest & !msr::DEBUG_CTL_BTF);
            }
            guest
        };
        let save = &mut self.vmcb.save;
        let (trap, dr6, syscall_enable) = (save.rflags & reg::RFLAGS_TF, save.dr6, save.efer & reg::EFER_SCE);
        save.rflags |= reg::RFLAGS_TF;
        // SYSCALL and SYSRET replace the trap flag without trapping.
        save.efer &= !reg::EFER_SCE;
        self.window = Some(Window {
            purpose,
            view: self.view,
            frames: replaced,
            trap,
            syscall_enable,
            dr6,
            debug_control,
            loads_flags: false,
        });
        self.window_controls();
        true
    }

    /// Closes the window, whatever exit came.
    pub(crate) fn close_window(&mut self, exit: Exit) {
        let Some(mut window) = self.window.take() else { return };
        if exit == Exit::Iret && window.purpose == Purpose::Segment && !window.loads_flags {
            // Nothing has run yet. IRET brings its own trap flag: let it, and leave that alone.
            window.loads_flags = true;
            self.vmcb.control.intercept_misc1 &= !misc1::IRET;
            self.window = Some(window);
            return;
        }
        for (frame, old) in window.frames.into_iter().rev().flatten() {
            self.nested.replace(window.view, frame, old).unwrap_or_else(|_| unreachable!("the range is split"));
        }
        if window.debug_control & msr::DEBUG_CTL_BTF != 0 {
            // SAFETY: the guest's own value, which the processor took from it.
            unsafe { instr::wrmsr(msr::DEBUG_CTL, window.debug_control) };
        }
        let stepped = exit == Exit::Exception(vector::DB);
        let save = &mut self.vmcb.save;
        save.efer |= window.syscall_enable;
        if !(stepped && window.loads_flags) {
            save.rflags = save.rflags & !reg::RFLAGS_TF | window.trap;
        }
        let mut pending = stepped && window.trap != 0;
        if stepped && window.trap == 0 {
            pending = save.dr6 & 0xf != window.dr6 & 0xf;
            save.dr6 = if pending { save.dr6 & !reg::DR6_BS } else { window.dr6 };
        }
        match window.purpose {
            Purpose::SelfPatch => {
                self.patching = window.frames[0].map(|(f, _)| f);
                self.patched(self.patching);
            }
            Purpose::Absent => *self.scratch = Scratch::NEW,
            Purpose::Segment => {}
            Purpose::Msr(msr) => self.let_msr(msr, false),
        }
        // Back to the controls of the view we were in; a segment load was made in the kernel view.
        match window.purpose {
            Purpose::Segment if self.vmcb.save.cpl == 3 && stepped && !pending => self.enter_user(),
            Purpose::Segment => self.kernel_controls(),
            _ if window.view == View::User => self.user_controls(),
            _ => self.kernel_controls(),
        }
        if !stepped {
            self.after_window(exit, window.purpose);
        } else if pending {
            self.deliver(Event::exception(vector::DB));
        }
    }

    /// The instruction did not complete: the exit is handled as if there had been no window.
    fn after_window(&mut self, exit: Exit, purpose: Purpose) {
        match exit {
            // They would carry the trap flag away; no honest code does this here.
            Exit::Flags | Exit::Iret => {
                let frame = Frame::containing(self.vmcb.save.rsp);
                self.violation(Violation { rule: Rule::Instruction, frame, nearest: None });
                self.deliver(Event::exception_with(vector::GP, 0));
            }
            // In the kernel view an exception is the guest's own business; so is one of a segment load.
            Exit::Exception(number) if self.view == View::Kernel => self.pass_exception(number),
            Exit::Interrupt | Exit::Nmi if self.view == View::Kernel => {}
            Exit::SoftwareInterrupt | Exit::Icebp if self.view == View::Kernel && purpose != Purpose::Segment => {
                self.deliver(Event::exception_with(vector::GP, 0));
            }
            other => self.handle(other),
        }
    }
}
