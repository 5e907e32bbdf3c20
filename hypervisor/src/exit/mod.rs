//! Exits: what each means in the words of the rules
//!
//! | file | exits |
//! |---|---|
//! | [`fault`] | nested page faults |
//! | [`exception`] | exceptions, INT n, ICEBP: user view only |
//! | [`nmi`] | NMIs, and IRET while one is handled |
//! | [`apic`] | writes to the APICs' pages |
//! | [`syscall`] | SYSCALL, which is #UD in the user view |
//! | [`segment`] | segment loads, which are #GP in the user view |
//! | [`register`] | MSRs, CPUID |
//! | [`port`] | I/O ports: the report's UART, and those that the rules watch |
//! | [`call`] | VMMCALL |
mod apic;
mod call;
mod exception;
mod fault;
pub mod nmi;
mod port;
mod register;
mod segment;
mod syscall;

use secvisor_amd64::event::{Event, vector};
use secvisor_amd64::exit::Exit;
use secvisor_amd64::reg;
use secvisor_rules::apic::To;
use secvisor_rules::{Frame, Rule, Verdict, Violation};

use crate::cpu::instr;
use crate::crowd::request;
use crate::mem::npt::View;
use crate::report;
use crate::vcpu::Vcpu;

impl Vcpu {
    /// Handles an exit outside a window.
    pub(crate) fn handle(&mut self, exit: Exit) {
        match exit {
            Exit::NestedPageFault => self.nested_page_fault(),
            Exit::Exception(vector::UD) => self.invalid_opcode(),
            Exit::Exception(number) => self.exception(number),
            // They stay pending: the guest takes them by its own IDT in the kernel view.
            Exit::Interrupt if self.view == View::User => self.enter_kernel(),
            Exit::Interrupt => {}
            Exit::Nmi => self.nmi(),
            Exit::SoftwareInterrupt => self.software_interrupt(),
            Exit::Icebp => self.icebp(),
            Exit::Cpuid => self.cpuid(),
            Exit::Msr => self.msr(),
            Exit::Io => self.port(),
            Exit::Invd => self.invd(),
            Exit::Vmmcall => self.hypercall(),
            Exit::SvmInstruction => self.svm_instruction(),
            Exit::Init => self.stop("INIT: this version cannot keep a CPU beneath it through INIT"),
            Exit::Shutdown => self.shutdown(),
            Exit::Iret => self.iret(),
            Exit::TaskSwitch => self.task_switch(),
            // Intercepted in windows only.
            Exit::Flags => self.unexpected(exit),
            Exit::Invalid => self.stop("the guest's state is one the processor does not run"),
            Exit::Unknown(_) => self.unexpected(exit),
        }
    }

    /// Carries out what the rules say. `fetch` is the address of a refused fetch.
    pub(crate) fn apply(&mut self, verdict: Verdict, fetch: Option<u64>) {
        match verdict {
            Verdict::Resume | Verdict::Wait => {}
            // Where no window can be opened.
            Verdict::Step => self.inject(Event::exception_with(vector::GP, 0)),
            Verdict::Restored(violation) => self.restored(violation),
            Verdict::Refuse(violation) => {
                self.violation(violation);
                // A CPU that is being started has nobody yet to deliver a fault to.
                if fetch.is_some() && self.vmcb.save.cr0 & reg::CR0_PG == 0 {
                    self.not_started();
                } else if let Some(va) = fetch {
                    // Not present and a fetch: with P=1 Linux takes it for a stale TLB entry and tries for ever.
                    self.set_cr2(va);
                    self.inject(Event::exception_with(vector::PF, 0x10));
                }
            }
        }
    }

    /// Delivers an event to the guest by its own IDT, in the kernel view.
    pub(crate) fn deliver(&mut self, event: Event) {
        if self.view == View::User {
            self.enter_kernel();
        }
        self.inject(event);
    }

    /// INVD would drop what we have written and not yet reached memory: write it back instead.
    fn invd(&mut self) {
        instr::wbinvd();
        self.skip(2);
    }

    /// The guest's event tables, or its stack, are where nothing can be delivered: what a processor does.
    pub(crate) fn fault_in_delivery(&mut self, interrupted: Event) {
        if interrupted.vector() == vector::DF {
            self.shutdown();
        }
        self.deliver(Event::exception_with(vector::DF, 0));
    }

    /// VMRUN and its kin do not exist for the guest.
    fn svm_instruction(&mut self) {
        if cfg!(feature = "without-svm-checks") {
            return self.skip(3);
        }
        self.violation(Violation { rule: Rule::Instruction, frame: Frame(0), nearest: None });
        self.deliver(Event::exception(vector::UD));
    }

    /// There are none in long mode; in legacy modes one could change the privilege level unseen.
    fn task_switch(&mut self) {
        self.violation(Violation { rule: Rule::Instruction, frame: Frame(0), nearest: None });
        self.deliver(Event::exception_with(vector::GP, 0));
    }

    /// A triple fault. What a machine does: reset.
    fn shutdown(&mut self) -> ! {
        report::guest_stopped();
        report!("the guest shut down (triple fault) at rip={:#x}: reset", self.vmcb.save.rip);
        self.reset()
    }

    /// Stops all other CPUs.
    fn stop_others(&self) {
        self.machine.crowd.ask(self.me, To::Others, request::STOP);
    }

    /// Resets the whole machine.
    pub(crate) fn reset(&mut self) -> ! {
        // Reset control register of PC chipsets: full reset.
        instr::outb(0xcf9, 0x02);
        instr::outb(0xcf9, 0x06);
        instr::halt();
    }

    /// Stops the machine for a reason that is not our bug.
    pub(crate) fn stop(&mut self, reason: &str) -> ! {
        self.stop_others();
        report::guest_stopped();
        report!("stopped at rip={:#x}: {reason}", self.vmcb.save.rip);
        instr::halt()
    }

    #[cold]
    fn unexpected(&mut self, exit: Exit) {
        let (c, s) = (&self.vmcb.control, &self.vmcb.save);
        panic!(
            "{exit:?} view={:?} info={:#x},{:#x} int={:#x} rip={:#x} cpl={} cr0={:#x} cr3={:#x} cr4={:#x} efer={:#x}",
            self.view, c.exit_info1, c.exit_info2, c.exit_int_info, s.rip, s.cpl, s.cr0, s.cr3, s.cr4, s.efer
        );
    }
}
