//! Switching views: complete mediation
//!
//! The user view is on only while CPL is 3. While it is, every way to CPL 0 exits: interrupts, NMI, INIT, exceptions
//! and INT n are intercepted; EFER.SCE is 0, so SYSCALL is #UD; SYSENTER_CS is always 0; the limits of GDTR and LDTR
//! are 0, so no gate can be reached. The kernel view is entered here and nowhere else.
//!
//! TLB (APM 2, 15.16): entries are tagged by ASID and combine both levels of translation. The kernel view has ASID 1.
//! The user view gets an ASID of its own each time it is entered, unused since the last flush of all: the guest's
//! own invalidations, made in the kernel view, cannot reach another ASID.
use secvisor_amd64::intercept::{misc1, misc2};
use secvisor_amd64::reg;
use secvisor_rules::Event;

use crate::cpu::{instr, run};
use crate::mem::npt::View;
use crate::vcpu::{ALL_EXCEPTIONS, ALWAYS1, ALWAYS2, Vcpu};

const KERNEL_ASID: u32 = 1;

/// Guest state that is hidden while the user view is on, and what is known of the SYSCALL MSRs.
pub struct Hidden {
    gdt_limit: u32,
    ldt_limit: Option<u32>,
    syscall_enable: u64,
    asid: u32,
    asids: u32,
    /// STAR, as the guest wrote it.
    pub star: u64,
    /// LSTAR.
    pub lstar: u64,
    /// CSTAR.
    pub cstar: u64,
    /// SFMASK.
    pub sfmask: u64,
    /// SYSENTER_CS as the guest believes it to be; the processor's is 0.
    pub sysenter_cs: u64,
}

impl Hidden {
    /// For a processor with this many ASIDs.
    pub fn new(asids: u32) -> Self {
        Self {
            gdt_limit: 0,
            ldt_limit: None,
            syscall_enable: 0,
            asid: KERNEL_ASID,
            asids,
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            sysenter_cs: 0,
        }
    }
}

impl Vcpu {
    /// Turns the user view on. CPL is 3.
    #[inline]
    pub(crate) fn enter_user(&mut self) {
        if self.passing & misc1::CPUID != 0 {
            self.first_user();
        }
        self.stats().switches.add();
        let save = &mut self.vmcb.save;
        self.hidden.gdt_limit = core::mem::replace(&mut save.gdtr.limit, 0);
        self.hidden.syscall_enable = save.efer & reg::EFER_SCE;
        save.efer &= !reg::EFER_SCE;
        if instr::sldt() != 0 {
            self.hide_ldt();
        }
        self.user_controls();
    }

    /// Turns the kernel view on, with the guest's own descriptor tables and SYSCALL.
    #[inline]
    pub(crate) fn enter_kernel(&mut self) {
        self.stats().switches.add();
        self.unhide();
        self.kernel_controls();
    }

    #[inline]
    fn unhide(&mut self) {
        let save = &mut self.vmcb.save;
        save.gdtr.limit = self.hidden.gdt_limit;
        save.efer |= self.hidden.syscall_enable;
        if self.hidden.ldt_limit.is_some() {
            self.show_ldt();
        }
    }

    #[inline]
    pub(crate) fn user_controls(&mut self) {
        self.view = View::User;
        self.hidden.asid += 1;
        if self.hidden.asid == self.hidden.asids {
            self.hidden.asid = KERNEL_ASID + 1;
            self.flush = true;
        }
        let control = &mut self.vmcb.control;
        control.intercept_exceptions = ALL_EXCEPTIONS;
        control.intercept_misc1 = ALWAYS1 | misc1::INTR | misc1::INTN;
        control.intercept_misc2 = ALWAYS2 | misc2::ICEBP;
        control.nested_cr3 = self.machine.user_root;
        control.asid = self.hidden.asid;
    }

    /// The kernel view's controls.
    #[inline]
    pub(crate) fn kernel_controls(&mut self) {
        self.view = View::Kernel;
        let control = &mut self.vmcb.control;
        control.intercept_exceptions = 0;
        control.intercept_misc1 = ALWAYS1 | self.passing;
        control.intercept_misc2 = ALWAYS2;
        control.nested_cr3 = self.machine.kernel_root;
        control.asid = KERNEL_ASID;
    }

    /// The kernel view, but every event and whatever could carry a trap flag away exits: for one instruction.
    pub(crate) fn window_controls(&mut self) {
        let control = &mut self.vmcb.control;
        control.intercept_exceptions = ALL_EXCEPTIONS;
        control.intercept_misc1 =
            ALWAYS1 | self.passing | misc1::INTR | misc1::INTN | misc1::PUSHF | misc1::POPF | misc1::IRET;
        control.intercept_misc2 = ALWAYS2 | misc2::ICEBP;
    }

    /// The user view is about to be replaced by the kernel view for one segment load, which must find the tables.
    pub(crate) fn show_segments(&mut self) {
        self.unhide();
        self.kernel_controls();
    }

    #[cold]
    #[inline(never)]
    fn hide_ldt(&mut self) {
        // SAFETY: SVM is enabled; the VMCB is ours; the host uses none of this state.
        unsafe { run::vmsave(self.vmcb) };
        self.hidden.ldt_limit = Some(core::mem::replace(&mut self.vmcb.save.ldtr.limit, 0));
        // SAFETY: as above; the state is the guest's own but for the limit.
        unsafe { run::vmload(self.vmcb) };
    }

    #[cold]
    #[inline(never)]
    fn show_ldt(&mut self) {
        // SAFETY: as in `hide_ldt`.
        unsafe { run::vmsave(self.vmcb) };
        if let Some(limit) = self.hidden.ldt_limit.take() {
            self.vmcb.save.ldtr.limit = limit;
        }
        // SAFETY: as in `hide_ldt`.
        unsafe { run::vmload(self.vmcb) };
    }

    #[cold]
    #[inline(never)]
    fn first_user(&mut self) {
        self.passing &= !misc1::CPUID;
        self.note_paging();
        let machine = self.machine;
        let mut core = machine.core.lock();
        if core.rules.booted() {
            return;
        }
        let _resume = self.step(&mut core, Event::FirstUser);
        crate::report!("first user-mode instruction: boot choices are fixed");
    }
}

impl Vcpu {
    /// Whether the guest has SYSCALL enabled, in the user view.
    #[inline]
    pub(crate) fn syscall_enabled(&self) -> bool {
        self.hidden.syscall_enable != 0
    }

    /// Base and real limit of the guest's GDT, in the user view.
    pub(crate) fn gdt(&self) -> (u64, u32) {
        (self.vmcb.save.gdtr.base, self.hidden.gdt_limit)
    }

    /// Base and real limit of the guest's LDT, in the user view.
    pub(crate) fn ldt(&mut self) -> Option<(u64, u32)> {
        let limit = self.hidden.ldt_limit?;
        // SAFETY: as in `hide_ldt`.
        unsafe { run::vmsave(self.vmcb) };
        Some((self.vmcb.save.ldtr.base, limit))
    }
}
