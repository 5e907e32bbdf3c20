//! The one virtual CPU: its control block, and the loop
use core::mem::MaybeUninit;

use secvisor_amd64::event::Event;
use secvisor_amd64::exit::{self, Exit};
use secvisor_amd64::intercept::{misc1, misc2};
use secvisor_amd64::vmcb::{TLB_FLUSH_ALL, Vmcb};
use secvisor_amd64::{msr, reg};
use secvisor_rules::port::Ports;
use secvisor_rules::{Rules, msr as msr_rules};

use crate::cpu::run::{self, Registers, Stack};
use crate::cpu::svm::Features;
use crate::mem::npt::View;
use crate::mem::once::Once;
use crate::nested::{GuestPaging, Nested};
use crate::opcode::Opcodes;
use crate::report;
use crate::stats::Stats;
use crate::switch::Hidden;
use crate::violation::Log;
use crate::window::{Scratch, Window};

/// I/O and MSR permission maps (APM 2, 15.10.1 and 15.11): a set bit intercepts.
#[repr(C, align(4096))]
struct Maps {
    io: [u8; 3 * 4096],
    msr: [u8; 2 * 4096],
}

/// Bits of an MSR in its map.
const READ: u8 = 1;
const WRITE: u8 = 2;
/// A byte of the map in which every write exits.
const WRITES: u8 = 0xaa;

impl Maps {
    /// Sets whether an MSR of the map's ranges exits.
    fn intercept(&mut self, msr: u32, bits: u8, exits: bool) {
        let Some(bit) = msr::permission_bit(msr) else { return };
        let (byte, bits) = (&mut self.msr[bit / 8], bits << (bit % 8));
        *byte = if exits { *byte | bits } else { *byte & !bits };
    }
}

static VMCB: Once<MaybeUninit<Vmcb>> = Once::new(MaybeUninit::zeroed());
static STACK: Once<Stack> = Once::new(Stack::new());
static OPCODES: Once<Opcodes> = Once::new(Opcodes::new());
static LOG: Once<Log> = Once::new(Log::new());
static SCRATCH: Once<Scratch> = Once::new(Scratch::NEW);
static MAPS: Once<Maps> = Once::new(Maps { io: [0; 3 * 4096], msr: [0; 2 * 4096] });

/// All exceptions; vector 2 is reserved, NMIs have their own bit.
pub const ALL_EXCEPTIONS: u32 = !(1 << 2);
/// Intercepts of both views.
pub const ALWAYS1: u32 = misc1::INIT | misc1::INVD | misc1::IOIO | misc1::MSR | misc1::SHUTDOWN | SVM1;
/// As above.
pub const ALWAYS2: u32 = misc2::VMRUN | misc2::VMMCALL | misc2::SKINIT | SVM2;
/// The SVM instructions that would work if they were not intercepted.
const SVM1: u32 = if cfg!(feature = "without-svm-checks") { 0 } else { misc1::INVLPGA };
const SVM2: u32 = match cfg!(feature = "without-svm-checks") {
    true => 0,
    false => misc2::VMLOAD | misc2::VMSAVE | misc2::STGI | misc2::CLGI,
};

/// The virtual CPU with all it needs.
pub struct Vcpu {
    pub(crate) vmcb: &'static mut Vmcb,
    pub(crate) regs: &'static mut Registers,
    pub(crate) rules: Rules<'static>,
    pub(crate) nested: Nested,
    pub(crate) features: Features,
    pub(crate) view: View,
    pub(crate) hidden: Hidden,
    pub(crate) window: Option<Window>,
    /// The frame the last instruction wrote from within, see [`secvisor_rules::Event::KernelFetch`].
    pub(crate) patching: Option<secvisor_rules::Frame>,
    /// The last access to memory the guest does not have: RIP and frame.
    pub(crate) absent_before: Option<(u64, secvisor_rules::Frame)>,
    /// Intercept of CPUID, until the first user-mode instruction.
    pub(crate) cpuid: u32,
    /// What was injected at the last VMRUN.
    pub(crate) injected: Event,
    pub(crate) opcodes: &'static mut Opcodes,
    pub(crate) stats: Stats,
    pub(crate) log: &'static mut Log,
    /// What absent memory looks like.
    pub(crate) scratch: &'static mut Scratch,
    pub(crate) memory: u64,
    pub(crate) ports: Ports,
    maps: &'static mut Maps,
}

impl Vcpu {
    /// A virtual CPU that intercepts what it must. Called once.
    pub fn new(rules: Rules<'static>, nested: Nested, features: Features, ports: Ports, memory: u64) -> Self {
        let maps = MAPS.take();
        // SAFETY: a block is made of integers, for which zero is a value.
        let vmcb = unsafe { VMCB.take().assume_init_mut() };
        for (first, last) in ports.watched().chain([(report::COM2, report::COM2 + 7)]) {
            for port in first..=last {
                maps.io[port as usize / 8] |= 1 << (port % 8);
            }
        }
        maps.msr.fill(WRITES);
        for (first, last) in msr_rules::FREE {
            (first..=last).for_each(|msr| maps.intercept(msr, WRITE, false));
        }
        for msr in [msr::EFER, msr::VM_CR, msr::VM_HSAVE_PA, msr::SYSENTER_CS] {
            maps.intercept(msr, READ, true);
        }
        let control = &mut vmcb.control;
        control.iopm_base = &raw const maps.io as u64;
        control.msrpm_base = &raw const maps.msr as u64;
        control.nested_control = 1;
        // Nothing is kept from one VMRUN to the next (APM 2, 15.15): always right, and cheap beside the exit itself.
        control.clean = 0;
        let mut this = Self {
            vmcb,
            regs: &mut STACK.take().registers,
            rules,
            nested,
            features,
            view: View::User,
            hidden: Hidden::new(features.asids),
            window: None,
            patching: None,
            absent_before: None,
            cpuid: misc1::CPUID,
            injected: Event(0),
            opcodes: OPCODES.take(),
            stats: Stats::default(),
            log: LOG.take(),
            scratch: SCRATCH.take(),
            memory,
            ports,
            maps,
        };
        this.kernel_controls();
        this
    }

    /// Sets the initial registers; RSI is the boot protocol's argument.
    pub fn prepare(&mut self, state: impl FnOnce(&mut Vmcb), rsi: u64) {
        state(self.vmcb);
        self.regs.rsi = rsi;
        // SAFETY: SVM is enabled; the VMCB is ours and complete.
        unsafe { run::vmload(self.vmcb) };
    }

    /// Runs the guest for ever.
    pub fn run(mut self) -> ! {
        self.before_entry();
        let (vmcb, registers) = (&raw mut *self.vmcb, &raw mut *self.regs);
        // SAFETY: launch enabled SVM and cleared GIF; the stack and the block are `new`'s statics, and `self` lives as
        // long as this frame, which is never left; the handlers keep the block consistent, and the nested tables map
        // none of our memory but a window's scratch frame.
        unsafe { run::guest_loop(&mut self, vmcb, registers) }
    }

    /// After every exit, called by [`run::guest_loop`].
    pub(crate) extern "sysv64" fn exit(&mut self) {
        let code = self.vmcb.control.exit_code;
        self.vmcb.control.event_injection = 0;
        if self.window.is_some() {
            self.exit_window(code);
        } else if code == exit::NESTED_PAGE_FAULT {
            self.stats.nested_page_faults += 1;
            self.nested_page_fault();
        } else if code == exit::INVALID_OPCODE {
            self.stats.invalid_opcodes += 1;
            self.invalid_opcode();
        } else {
            self.exit_other(code);
        }
        self.before_entry();
    }

    #[inline(never)]
    fn exit_other(&mut self, code: u64) {
        let exit = Exit::new(code);
        self.stats.exit(exit);
        self.handle(exit);
    }

    #[cold]
    fn exit_window(&mut self, code: u64) {
        let exit = Exit::new(code);
        self.stats.exit(exit);
        self.close_window(exit);
    }

    /// What every VMRUN needs.
    #[inline]
    fn before_entry(&mut self) {
        let control = &mut self.vmcb.control;
        control.tlb_control = 0;
        if self.nested.flush {
            control.tlb_control = TLB_FLUSH_ALL;
            self.stats.flushes += 1;
            self.nested.flush = false;
        }
        self.injected = Event(control.event_injection);
        assert!(self.view == View::Kernel || !self.injected.valid(), "an event would be delivered in the user view");
    }

    /// Lets the next write of an MSR be executed, or makes it exit again.
    pub(crate) fn let_msr(&mut self, msr: u32, pass: bool) {
        self.maps.intercept(msr, WRITE, !pass);
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
        self.nested.paging = GuestPaging { root: save.cr3, levels };
    }

    /// Address of the instruction the guest is at.
    pub(crate) fn linear_rip(&self) -> u64 {
        let save = &self.vmcb.save;
        let long = save.efer & reg::EFER_LMA != 0 && save.cs.attrib & reg::ATTRIB_LONG != 0;
        if long { save.rip } else { (save.cs.base + (save.rip & 0xffff_ffff)) & 0xffff_ffff }
    }

    /// Delivers an exception to the guest.
    pub(crate) fn inject(&mut self, event: Event) {
        self.vmcb.control.event_injection = event.0;
    }

    /// Steps over an instruction of known length.
    pub(crate) fn skip(&mut self, len: u64) {
        let save = &mut self.vmcb.save;
        save.rip = if self.features.next_rip { self.vmcb.control.next_rip } else { save.rip + len };
        self.vmcb.control.interrupt_shadow = 0;
    }

    /// Starts an event again whose delivery the exit interrupted, unless something else is delivered instead.
    #[inline(never)]
    pub(crate) fn redeliver(&mut self) {
        let interrupted = Event(self.vmcb.control.exit_int_info);
        if !interrupted.valid() || self.vmcb.control.event_injection != 0 {
            return;
        }
        // What we injected ourselves had its RIP set for that.
        let again = if self.injected.valid() && self.injected.vector() == interrupted.vector() {
            Some(self.injected)
        } else {
            interrupted.again()
        };
        if let Some(event) = again {
            self.deliver(event);
        }
    }
}
