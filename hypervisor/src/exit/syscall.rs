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
        let save = &self.vmcb.save;
        let long = save.cs.attrib & reg::ATTRIB_LONG != 0 && save.efer & reg::EFER_LMA != 0;
        let opcode = if long && save.cr4 & reg::CR4_LA57 == 0 {
            self.opcodes.read(&self.machine.ram, save.cr3, save.rip)
        } else {
            self.opcode_elsewhere()
        };
        if opcode != Some(OPCODE) || !self.syscall_enabled() {
            return false;
        }
        self.enter_kernel();
        let (save, hidden) = (&mut self.vmcb.save, &self.hidden);
        let next = if long { save.rip + 2 } else { (save.rip + 2) & 0xffff_ffff };
        let selector = (hidden.star >> 32) as u16 & !3;
        self.regs.rcx = next;
        self.regs.r11 = save.rflags & !reg::RFLAGS_RF;
        save.rflags = save.rflags & !hidden.sfmask & !reg::RFLAGS_RF | reg::RFLAGS_ONE;
        save.rip = if long { hidden.lstar } else { hidden.cstar };
        save.cs = Segment { selector, attrib: reg::SYSCALL_CS, limit: u32::MAX, base: 0 };
        save.ss = Segment { selector: selector + 8, attrib: reg::SYSCALL_SS, limit: u32::MAX, base: 0 };
        save.cpl = 0;
        self.vmcb.control.interrupt_shadow = 0;
        true
    }

    /// The opcode in compatibility mode or under 5-level tables.
    #[inline(never)]
    fn opcode_elsewhere(&mut self) -> Option<u16> {
        self.note_paging();
        self.opcodes.walk(&self.machine.ram, self.paging, self.linear_rip())
    }
}
