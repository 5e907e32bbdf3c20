//! A start-up command: a CPU begins in real mode at a page of low memory
use secvisor_amd64::intercept::misc1;
use secvisor_amd64::reg;
use secvisor_amd64::vmcb::{Segment, Vmcb};

use crate::cpu::{instr, run};
use crate::exit::nmi::Nmi;
use crate::switch::Hidden;
use crate::vcpu::Vcpu;

impl Vcpu {
    /// Starts in real mode at a page of low memory.
    pub(crate) fn start_up(&mut self, page: u8) {
        self.waiting = false;
        self.close_window(None);
        started_state(self.vmcb, page);
        self.regs.clear();
        self.regs.rdx = instr::cpuid(1, 0)[0] as u64;
        self.hidden = Hidden::new(self.machine.features.asids);
        self.passing = misc1::CPUID;
        self.nmi = Nmi::default();
        (self.patching, self.absent_before, self.flush) = (None, None, true);
        self.kernel_controls();
        // SAFETY: SVM is enabled; the VMCB is ours and complete.
        unsafe { run::vmload(self.vmcb) };
    }
}

/// The state a CPU starts in at a page of low memory: APM 2, 14.1.3 and 16.5.
fn started_state(vmcb: &mut Vmcb, page: u8) {
    let data = Segment { selector: 0, attrib: 0x93, limit: 0xffff, base: 0 };
    let save = &mut vmcb.save;
    save.cs = Segment { selector: (page as u16) << 8, attrib: 0x9b, limit: 0xffff, base: (page as u64) << 12 };
    (save.ss, save.ds, save.es, save.fs, save.gs) = (data, data, data, data, data);
    (save.gdtr, save.idtr) = (data, data);
    save.ldtr = Segment { attrib: 0x82, ..data };
    save.tr = Segment { attrib: 0x8b, ..data };
    save.efer = reg::EFER_SVME;
    save.cr0 = reg::CR0_CD | reg::CR0_NW | reg::CR0_ET;
    (save.cr2, save.cr3, save.cr4) = (0, 0, 0);
    (save.rflags, save.rip, save.rsp, save.rax, save.cpl) = (reg::RFLAGS_ONE, 0, 0, 0, 0);
    (save.star, save.lstar, save.cstar, save.sfmask, save.kernel_gs_base) = (0, 0, 0, 0, 0);
    (save.sysenter_cs, save.sysenter_esp, save.sysenter_eip) = (0, 0, 0);
    (save.dr6, save.dr7) = (0xffff_0ff0, 0x400);
    save.g_pat = 0x0007_0406_0007_0406;
    vmcb.control.interrupt_shadow = 0;
    vmcb.control.event_injection = 0;
}
