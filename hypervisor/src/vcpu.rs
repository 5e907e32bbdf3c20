//! A virtual CPU: its control block, and the loop
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering;

use secvisor_amd64::event::Event;
use secvisor_amd64::exit::{self, Exit};
use secvisor_amd64::intercept::{misc1, misc2};
use secvisor_amd64::vmcb::{TLB_FLUSH_ALL, Vmcb};
use secvisor_amd64::{msr, reg};
use secvisor_rules::port::Ports;
use secvisor_rules::{Event as RulesEvent, Verdict, msr as msr_rules};

use crate::cpu::run::{self, Registers, Stack};
use crate::cpu::svm::{self, HostSave};
use crate::cpu::{idt, instr};
use crate::crowd::{Cpu, request};
use crate::exit::nmi::Nmi;
use crate::machine::{Core, Machine};
use crate::mem::npt::{Overlay, View};
use crate::mem::once::Once;
use crate::nested::{GuestPaging, Nested};
use crate::opcode::Opcodes;
use crate::report;
use crate::stats::Stats;
use crate::switch::Hidden;
use crate::window::{Scratch, Window};

/// The I/O permissions map (APM 2, 15.10.1), the same for all CPUs: a set bit intercepts.
#[repr(C, align(4096))]
pub struct IoMap([u8; 3 * 4096]);

impl IoMap {
    /// Fills in what must exit. Called once.
    pub fn of(ports: &Ports) -> &'static Self {
        static MAP: Once<IoMap> = Once::new(IoMap([0; 3 * 4096]));
        let map = MAP.take();
        for (first, last) in ports.watched().chain([(report::COM2, report::COM2 + 7)]) {
            for port in first..=last {
                map.0[port as usize / 8] |= 1 << (port % 8);
            }
        }
        map
    }
}

/// The MSR permissions map (APM 2, 15.11): a set bit intercepts.
#[repr(C, align(4096))]
struct MsrMap([u8; 2 * 4096]);

/// Bits of an MSR in its map.
const READ: u8 = 1;
const WRITE: u8 = 2;
/// A byte of the map in which every write exits.
const WRITES: u8 = 0xaa;

impl MsrMap {
    /// Sets whether an MSR of the map's ranges exits.
    fn intercept(&mut self, msr: u32, bits: u8, exits: bool) {
        let Some(bit) = msr::permission_bit(msr) else { return };
        let (byte, bits) = (&mut self.0[bit / 8], bits << (bit % 8));
        *byte = if exits { *byte | bits } else { *byte & !bits };
    }
}

/// Memory of one CPU.
#[repr(C, align(4096))]
pub struct PerCpu {
    stack: Stack,
    vmcb: Vmcb,
    msr: MsrMap,
    host_save: HostSave,
    scratch: Scratch,
    overlay: Overlay,
    opcodes: Opcodes,
    vcpu: MaybeUninit<Vcpu>,
}

/// All exceptions; vector 2 is reserved, NMIs have their own bit.
pub const ALL_EXCEPTIONS: u32 = !(1 << 2);
/// Intercepts of both views.
pub const ALWAYS1: u32 =
    misc1::INIT | misc1::NMI | misc1::TASK_SWITCH | misc1::INVD | misc1::IOIO | misc1::MSR | misc1::SHUTDOWN | SVM1;
/// As above.
pub const ALWAYS2: u32 = misc2::VMRUN | misc2::VMMCALL | misc2::SKINIT | SVM2;
/// The SVM instructions that would work if they were not intercepted.
const SVM1: u32 = if cfg!(feature = "without-svm-checks") { 0 } else { misc1::INVLPGA };
const SVM2: u32 = match cfg!(feature = "without-svm-checks") {
    true => 0,
    false => misc2::VMLOAD | misc2::VMSAVE | misc2::STGI | misc2::CLGI,
};

/// A virtual CPU with all it needs.
pub struct Vcpu {
    pub(crate) machine: &'static Machine,
    /// Its number.
    pub(crate) me: usize,
    /// What everybody may know of it.
    pub(crate) cpu: &'static Cpu,
    pub(crate) vmcb: &'static mut Vmcb,
    pub(crate) regs: &'static mut Registers,
    pub(crate) view: View,
    pub(crate) hidden: Hidden,
    pub(crate) window: Option<Window>,
    /// The frame the last instruction wrote from within, see [`secvisor_rules::Event::KernelFetch`].
    pub(crate) patching: Option<secvisor_rules::Frame>,
    /// The last access to memory the guest does not have: RIP and frame.
    pub(crate) absent_before: Option<(u64, secvisor_rules::Frame)>,
    /// Intercepts that the kernel view has for a time: of CPUID, until the first user-mode instruction, and of IRET, while an
    /// NMI is handled.
    pub(crate) passing: u32,
    /// What was injected at the last VMRUN, and the address it pushes if it is a software interrupt's.
    pub(crate) injected: (Event, u64),
    /// The TLB must be flushed before the guest runs.
    pub(crate) flush: bool,
    /// How the guest translates.
    pub(crate) paging: GuestPaging,
    pub(crate) nmi: Nmi,
    pub(crate) opcodes: &'static mut Opcodes,
    /// What absent memory looks like.
    pub(crate) scratch: &'static mut Scratch,
    pub(crate) overlay: &'static mut Overlay,
    msr: &'static mut MsrMap,
    host_save: Option<&'static mut HostSave>,
    /// It waits for a start-up.
    pub(crate) waiting: bool,
}

impl PerCpu {
    /// A virtual CPU that intercepts what it must, and waits for a start-up.
    pub fn init(&'static mut self, machine: &'static Machine, me: usize, io: &'static IoMap) -> &'static mut Vcpu {
        let Self { stack, vmcb, msr: map, host_save, scratch, overlay, opcodes, vcpu } = self;
        *scratch = Scratch::NEW;
        *opcodes = Opcodes::new();
        map.0.fill(WRITES);
        for (first, last) in msr_rules::FREE {
            (first..=last).for_each(|msr| map.intercept(msr, WRITE, false));
        }
        for msr in [msr::EFER, msr::VM_CR, msr::VM_HSAVE_PA, msr::SYSENTER_CS] {
            map.intercept(msr, READ, true);
        }
        let control = &mut vmcb.control;
        control.iopm_base = io as *const IoMap as u64;
        control.msrpm_base = map as *const MsrMap as u64;
        control.nested_control = 1;
        // Nothing is kept from one VMRUN to the next (APM 2, 15.15): always right, and cheap beside the exit itself.
        control.clean = 0;
        let vcpu = vcpu.write(Vcpu {
            machine,
            me,
            cpu: &machine.crowd.cpus[me],
            vmcb,
            regs: &mut stack.registers,
            view: View::Kernel,
            hidden: Hidden::new(machine.features.asids),
            window: None,
            patching: None,
            absent_before: None,
            passing: misc1::CPUID,
            injected: (Event(0), 0),
            flush: true,
            paging: GuestPaging::default(),
            nmi: Nmi::default(),
            opcodes,
            scratch,
            overlay,
            msr: map,
            host_save: Some(host_save),
            waiting: true,
        });
        vcpu.kernel_controls();
        vcpu
    }
}

impl Vcpu {
    /// Where the stack of this CPU begins; it grows down.
    pub fn stack(&self) -> u64 {
        &raw const *self.regs as u64
    }

    /// Sets the initial registers of the first CPU; RSI is the boot protocol's argument.
    pub fn prepare(&mut self, state: impl FnOnce(&mut Vmcb), rsi: u64) {
        state(self.vmcb);
        self.regs.rsi = rsi;
        self.waiting = false;
    }

    /// Its counters.
    #[inline]
    pub(crate) fn stats(&self) -> &'static Stats {
        &self.cpu.stats
    }

    /// Runs the guest for ever, on the CPU that this is.
    pub fn run(&mut self) -> ! {
        svm::enable(self.host_save.take().expect("a CPU is started once"));
        // SAFETY: SVM is enabled; the VMCB is ours and complete.
        unsafe { run::vmload(self.vmcb) };
        self.cpu.online.store(true, Ordering::Release);
        if self.waiting {
            self.not_started();
        }
        self.before_entry();
        let (vmcb, registers) = (&raw mut *self.vmcb, &raw mut *self.regs);
        // SAFETY: SVM is enabled and GIF clear; stack, block and `self` are this CPU's own and live for ever; the handlers
        // keep the block consistent, and the nested tables map none of our memory but a window's scratch frame.
        unsafe { run::guest_loop(self, vmcb, registers) }
    }

    /// After every exit, called by [`run::guest_loop`].
    pub(crate) extern "sysv64" fn exit(&mut self) {
        self.cpu.leave();
        let code = self.vmcb.control.exit_code;
        self.vmcb.control.event_injection = 0;
        if self.window.is_some() {
            self.exit_window(code);
        } else if code == exit::NESTED_PAGE_FAULT {
            self.stats().nested_page_faults.add();
            self.nested_page_fault();
        } else if code == exit::INVALID_OPCODE {
            self.stats().invalid_opcodes.add();
            self.invalid_opcode();
        } else {
            self.exit_other(code);
        }
        self.before_entry();
    }

    #[inline(never)]
    fn exit_other(&mut self, code: u64) {
        let exit = Exit::new(code);
        self.stats().exit(exit);
        self.handle(exit);
    }

    #[cold]
    fn exit_window(&mut self, code: u64) {
        let exit = Exit::new(code);
        self.stats().exit(exit);
        self.close_window(Some(exit));
    }

    /// What every VMRUN needs. From here on this CPU counts as running the guest.
    #[inline]
    fn before_entry(&mut self) {
        while !self.cpu.enter() {
            self.requests();
        }
        let control = &mut self.vmcb.control;
        control.tlb_control = 0;
        if self.flush {
            control.tlb_control = TLB_FLUSH_ALL;
            self.flush = false;
            self.cpu.stats.flushes.add();
        }
        let injected = Event(self.vmcb.control.event_injection);
        self.injected = (injected, self.vmcb.control.next_rip);
        assert!(self.view == View::Kernel || !injected.valid(), "an event would be delivered in the user view");
    }

    /// Does what was asked for.
    #[cold]
    #[inline(never)]
    fn requests(&mut self) {
        let asked = self.cpu.requested();
        if asked & request::FLUSH != 0 {
            self.flush = true;
            // Its tables may be older than the change.
            self.close_window(None);
        }
        self.asked(asked);
        while self.waiting {
            match self.cpu.requested() {
                0 => {
                    idt::wait_for_nmi();
                    self.cpu.took_nmi();
                }
                asked => self.asked(asked),
            }
        }
    }

    fn asked(&mut self, asked: u32) {
        if asked & request::STOP != 0 {
            instr::halt();
        }
        self.waiting |= asked & request::INIT != 0;
        if asked & request::STARTUP != 0 && self.waiting {
            self.start_up(asked as u8);
        }
    }

    /// An event for the rules, for who holds the lock.
    pub(crate) fn step(&mut self, core: &mut Core, event: RulesEvent) -> Verdict {
        self.flush = true;
        let mut nested = Nested { tables: &mut core.tables, machine: self.machine, me: self.me, paging: self.paging };
        core.rules.step(&mut nested, event)
    }

    /// This CPU waits for a start-up from now on, as if it had never been started.
    pub(crate) fn not_started(&mut self) {
        self.cpu.ask(request::INIT);
    }

    /// Lets the next write of an MSR be executed, or makes it exit again.
    pub(crate) fn let_msr(&mut self, msr: u32, pass: bool) {
        self.msr.intercept(msr, WRITE, !pass);
    }

    /// Notes how the guest translates, for what reads its memory.
    #[inline]
    pub(crate) fn note_paging(&mut self) {
        let save = &self.vmcb.save;
        let levels = match (save.cr0 & reg::CR0_PG != 0, save.efer & reg::EFER_LMA != 0) {
            (false, _) => 0,
            (true, false) => 2,
            (true, true) if save.cr4 & reg::CR4_LA57 != 0 => 5,
            (true, true) => 4,
        };
        self.paging = GuestPaging { root: save.cr3, levels };
    }

    /// Where a guest-virtual address leads, by the guest's own tables.
    pub(crate) fn walk(&self, va: u64) -> Option<u64> {
        self.machine.ram.walk(self.paging, va)
    }

    /// Address of the instruction the guest is at.
    pub(crate) fn linear_rip(&self) -> u64 {
        let save = &self.vmcb.save;
        let long = save.efer & reg::EFER_LMA != 0 && save.cs.attrib & reg::ATTRIB_LONG != 0;
        if long { save.rip } else { (save.cs.base + (save.rip & 0xffff_ffff)) & 0xffff_ffff }
    }

    /// The address of a page fault that is delivered to the guest. VMRUN loads it from the block (APM 2, 15.5.1); that of
    /// Bochs 3.0 leaves CR2 as it is, so that the register is written, too.
    #[inline]
    pub(crate) fn set_cr2(&mut self, address: u64) {
        self.vmcb.save.cr2 = address;
        instr::write_cr2(address);
    }

    /// Delivers an exception to the guest.
    pub(crate) fn inject(&mut self, event: Event) {
        self.vmcb.control.event_injection = event.0;
    }

    /// Steps over an instruction of known length.
    pub(crate) fn skip(&mut self, len: u64) {
        let save = &mut self.vmcb.save;
        save.rip = if self.machine.features.next_rip { self.vmcb.control.next_rip } else { save.rip + len };
        self.vmcb.control.interrupt_shadow = 0;
    }

    /// Starts an event again whose delivery the exit interrupted, unless something else is delivered instead.
    #[inline(never)]
    pub(crate) fn redeliver(&mut self) {
        let interrupted = Event(self.vmcb.control.exit_int_info);
        if !interrupted.valid() || self.vmcb.control.event_injection != 0 {
            return;
        }
        let (injected, next_rip) = self.injected;
        if !injected.valid() || injected.vector() != interrupted.vector() {
            if let Some(event) = interrupted.again() {
                self.deliver(event);
            }
            return;
        }
        // What we injected ourselves had its RIP set for that. The exit has cleared what it pushes (APM 2, 15.20).
        self.vmcb.control.next_rip = next_rip;
        self.deliver(injected);
    }
}
