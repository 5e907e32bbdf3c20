//! SYSCALL: #UD in the user view, completed here (APM 3, SYSCALL)
use secvisor_amd64::reg;
use secvisor_amd64::vmcb::Segment;
use secvisor_rules::{Frame, FrameState};

use crate::mem::physical;
use crate::vcpu::Vcpu;

/// `0f 05`
const OPCODE: [u8; 2] = [0x0f, 0x05];

impl Vcpu {
    /// Whether the #UD was a SYSCALL; if so it has been completed. Misjudging it is no hole: a user program can execute
    /// SYSCALL any time.
    #[inline]
    pub(super) fn syscall(&mut self) -> bool {
        let rip = self.linear_rip();
        if !self.syscall_enabled() || self.opcode(rip) != Some(OPCODE) {
            return false;
        }
        self.enter_kernel();
        let long = self.vmcb.save.cs.attrib & reg::ATTRIB_LONG != 0;
        let target = if long { self.hidden.lstar } else { self.hidden.cstar };
        let save = &mut self.vmcb.save;
        self.regs.rcx = if long { save.rip + 2 } else { (save.rip + 2) & 0xffff_ffff };
        self.regs.r8_15[3] = save.rflags & !reg::RFLAGS_RF;
        save.rflags = save.rflags & !self.hidden.sfmask & !reg::RFLAGS_RF | reg::RFLAGS_ONE;
        save.rip = target;
        let selector = (self.hidden.star >> 32) as u16 & !3;
        save.cs = Segment { selector, attrib: reg::SYSCALL_CS, limit: u32::MAX, base: 0 };
        save.ss = Segment { selector: selector + 8, attrib: reg::SYSCALL_SS, limit: u32::MAX, base: 0 };
        save.cpl = 0;
        self.vmcb.control.interrupt_shadow = 0;
        true
    }

    /// The two bytes at a linear address.
    #[inline]
    fn opcode(&mut self, va: u64) -> Option<[u8; 2]> {
        self.note_paging();
        let first = self.ram(va)?;
        let second = if va & 0xfff == 0xfff { self.ram(va + 1)? } else { first + 1 };
        // SAFETY: both are RAM of the guest, which is stopped.
        Some(unsafe { [physical::byte(first), physical::byte(second)] })
    }

    /// Where a linear address leads, if that is RAM of the guest.
    #[inline]
    fn ram(&self, va: u64) -> Option<u64> {
        let frames = self.rules.frames();
        let usable = |at: u64| matches!(frames.get(Frame::containing(at)), FrameState::Data | FrameState::Approved(_));
        // SAFETY: an aligned word in RAM of the guest (checked), which is stopped.
        let read = |at: u64| usable(at).then(|| unsafe { physical::word(at) });
        match secvisor_amd64::paging::walk(self.nested.paging.root, self.nested.paging.levels.max(4), va, read) {
            secvisor_amd64::paging::Walk::Mapped(at) if usable(at) => Some(at),
            _ => None,
        }
    }
}
