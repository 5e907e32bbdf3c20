//! Windows: one instruction with rights it otherwise would not have
//!
//! [`Purpose`] names what needs one. The trap flag is set, every event exits, and whichever exit comes first closes the
//! window before anything else happens. For rights to memory one or two nested entries are replaced, in tables of this
//! CPU's own. When the nested tables change meanwhile, the window is closed first.
use core::sync::atomic::Ordering;

use secvisor_amd64::event::{Event, vector};
use secvisor_amd64::exit::Exit;
use secvisor_amd64::intercept::misc1;
use secvisor_amd64::{msr, reg};
use secvisor_rules::{Frame, Rule, Violation};

use crate::cpu::instr;
use crate::machine::Core;
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
    /// A write to an APIC's page: what the instruction writes to the scratch frame at this address is looked at next.
    Apic(u64),
}

/// An open window.
pub struct Window {
    purpose: Purpose,
    view: View,
    /// The frame the instruction writes itself, where it does.
    frame: Option<Frame>,
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

    /// The 4 bytes at the place in it that an address has in its page.
    fn word(&self, at: u64) -> u32 {
        let at = (at & 0xffc) as usize;
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }
}

impl Vcpu {
    /// Opens a window on up to two different frames. `false` if there is nothing like them in the tables, or if an event
    /// is being delivered: it would be the event that runs with the window's rights.
    pub(crate) fn open_window(&mut self, core: &Core, purpose: Purpose, frames: [Option<Frame>; 2]) -> bool {
        let scratch = Frame::containing(&raw const *self.scratch as u64);
        let entry = |frame: Frame| match purpose {
            Purpose::SelfPatch | Purpose::Segment => NestedTables::open_entry(frame, true),
            Purpose::Absent | Purpose::Apic(_) | Purpose::Msr(_) => NestedTables::open_entry(scratch, false),
        };
        if Event(self.vmcb.control.exit_int_info).valid() {
            return false;
        }
        let entries = frames.map(|f| f.map(|f| (f, entry(f))));
        let Some(root) = core.tables.overlay(self.view, entries, self.overlay) else { return false };
        self.cpu.window.store(true, Ordering::SeqCst);
        self.cpu.will_flush();
        self.flush = true;
        self.begin_window(purpose, frames[0].filter(|_| purpose == Purpose::SelfPatch));
        self.vmcb.control.nested_cr3 = root;
        true
    }

    /// Opens a window without any right to memory.
    pub(crate) fn open_msr_window(&mut self, msr: u32) -> bool {
        let delivering = Event(self.vmcb.control.exit_int_info).valid();
        if !delivering {
            self.begin_window(Purpose::Msr(msr), None);
        }
        !delivering
    }

    fn begin_window(&mut self, purpose: Purpose, frame: Option<Frame>) {
        self.stats().windows.add();
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
            frame,
            trap,
            syscall_enable,
            dr6,
            debug_control,
            loads_flags: false,
        });
        self.window_controls();
    }

    /// Closes the window, if there is one, whatever exit came; without an exit before its instruction has run.
    pub(crate) fn close_window(&mut self, exit: Option<Exit>) {
        let Some(mut window) = self.window.take() else { return };
        if exit == Some(Exit::Iret) && window.purpose == Purpose::Segment && !window.loads_flags {
            // Nothing has run yet. IRET brings its own trap flag: let it, and leave that alone.
            window.loads_flags = true;
            self.vmcb.control.intercept_misc1 &= !misc1::IRET;
            self.window = Some(window);
            return;
        }
        self.cpu.window.store(false, Ordering::SeqCst);
        self.flush |= !matches!(window.purpose, Purpose::Msr(_)); // whose window changed no table
        if window.debug_control & msr::DEBUG_CTL_BTF != 0 {
            // SAFETY: the guest's own value, which the processor took from it.
            unsafe { instr::wrmsr(msr::DEBUG_CTL, window.debug_control) };
        }
        let stepped = exit == Some(Exit::Exception(vector::DB));
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
                self.patching = window.frame;
                window.frame.inspect(|frame| self.patched(*frame));
            }
            Purpose::Absent => *self.scratch = Scratch::NEW,
            Purpose::Apic(at) => {
                let written = self.scratch.word(at);
                *self.scratch = Scratch::NEW;
                if stepped {
                    self.apic_written(at, written);
                }
            }
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
        match exit {
            Some(exit) if !stepped => self.after_window(exit, window.purpose),
            _ if pending => self.deliver(Event::exception(vector::DB)),
            _ => {}
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
            Exit::Interrupt if self.view == View::Kernel => {}
            Exit::SoftwareInterrupt | Exit::Icebp if self.view == View::Kernel && purpose != Purpose::Segment => {
                self.deliver(Event::exception_with(vector::GP, 0));
            }
            other => self.handle(other),
        }
    }
}
