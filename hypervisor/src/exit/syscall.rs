//! SYSCALL: #UD in the user view, completed here (APM 3, SYSCALL)
use secvisor_amd64::reg;
use secvisor_amd64::vmcb::Segment;

use crate::vcpu::Vcpu;

/// `0f 05`
const OPCODE: u16 = 0x050f;

impl Vcpu {
    /// Whether the #UD was a SYSCALL; if so it has been completed. Misjudging it is no hole: a user program can execute
    /// SYSCALL any time.
    #[inline]
    pub(super) fn syscall(&mut self) -> bool {
        let rip = self.linear_rip();
        self.note_paging();
        let opcode = self.opcodes.read(self.rules.frames(), self.nested.paging, rip);
        if !self.syscall_enabled() || opcode != Some(OPCODE) {
            return false;
        }
        self.enter_kernel();
        let long = self.vmcb.save.cs.attrib & reg::ATTRIB_LONG != 0;
        let target = if long { self.hidden.lstar } else { self.hidden.cstar };
        let save = &mut self.vmcb.save;
        self.regs.rcx = if long { save.rip + 2 } else { (save.rip + 2) & 0xffff_ffff };
        self.regs.r11 = save.rflags & !reg::RFLAGS_RF;
        save.rflags = save.rflags & !self.hidden.sfmask & !reg::RFLAGS_RF | reg::RFLAGS_ONE;
        save.rip = target;
        let selector = (self.hidden.star >> 32) as u16 & !3;
        save.cs = Segment { selector, attrib: reg::SYSCALL_CS, limit: u32::MAX, base: 0 };
        save.ss = Segment { selector: selector + 8, attrib: reg::SYSCALL_SS, limit: u32::MAX, base: 0 };
        save.cpl = 0;
        self.vmcb.control.interrupt_shadow = 0;
        true
    }
}
