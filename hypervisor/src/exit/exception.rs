//! Events that would enter the kernel from the user view: let in, in the kernel view
use secvisor_amd64::event::{Event, vector};

use crate::mem::npt::View;
use crate::mem::physical;
use crate::vcpu::Vcpu;

impl Vcpu {
    /// #UD: most often a SYSCALL.
    #[inline]
    pub(crate) fn invalid_opcode(&mut self) {
        if !self.syscall() {
            self.exception(vector::UD);
        }
    }

    /// Any exception but a SYSCALL's #UD.
    #[inline(never)]
    pub(crate) fn exception(&mut self, number: u8) {
        assert!(self.view == View::User, "exceptions are intercepted in the user view only");
        if number != vector::GP || !self.segment_load() {
            self.enter_kernel();
            self.pass_exception(number);
        }
    }

    /// Delivers an intercepted exception, as the processor would have.
    pub(crate) fn pass_exception(&mut self, number: u8) {
        let control = &self.vmcb.control;
        let event = if Event::has_error_code(number) {
            Event::exception_with(number, control.exit_info1 as u32)
        } else {
            Event::exception(number)
        };
        match number {
            vector::PF => self.set_cr2(control.exit_info2),
            // INT3 and INTO are traps: the address pushed is that of the next instruction.
            vector::BP | vector::OF => self.skip_software(1),
            _ => {}
        }
        self.inject(event);
    }

    /// Steps over an instruction of `len` bytes and its prefixes.
    fn skip_software(&mut self, len: u64) {
        let mut prefixes = 0;
        while !self.machine.features.next_rip && prefixes < 14 && self.code_byte(prefixes).is_some_and(is_prefix) {
            prefixes += 1;
        }
        self.skip(prefixes + len);
        // Where the processor keeps it, it is the address that is pushed (APM 2, 15.20).
        self.vmcb.control.next_rip = self.vmcb.save.rip;
    }

    /// A byte of the instruction the guest is at.
    fn code_byte(&mut self, at: u64) -> Option<u8> {
        self.note_paging();
        let physical = self.walk(self.linear_rip() + at)?;
        // SAFETY: RAM of the guest (checked).
        self.machine.ram.contains(physical).then(|| unsafe { physical::byte(physical) })
    }

    /// INT n: the vector is the instruction's last byte. Where INT3 and INTO exit this way too, they are told apart by
    /// their opcodes.
    pub(super) fn software_interrupt(&mut self) {
        let mut at = 0;
        while at < 14 && self.code_byte(at).is_some_and(is_prefix) {
            at += 1;
        }
        let (number, len) = match self.code_byte(at) {
            Some(0xcc) => (Some(vector::BP), 1),
            Some(0xce) => (Some(vector::OF), 1),
            Some(0xcd) => (self.code_byte(at + 1), 2),
            _ => (None, 0),
        };
        let open = number.map(|n| (n, self.gate_open_to_user(n)));
        self.enter_kernel();
        match open {
            Some((number, true)) => {
                self.skip(at + len);
                // Where the processor keeps it, it is the address that is pushed (APM 2, 15.20).
                self.vmcb.control.next_rip = self.vmcb.save.rip;
                self.inject(Event::software_interrupt(number));
            }
            // A fault, so the address pushed is that of the instruction; the error code names the gate (APM 2, 8.4.1).
            Some((number, false)) => self.inject(Event::exception_with(vector::GP, (number as u32) << 3 | 2)),
            // The code has changed under us or cannot be read.
            None => self.inject(Event::exception_with(vector::GP, 0)),
        }
    }

    /// Whether the guest's IDT lets CPL 3 through this gate. Only what is reported depends on it: the processor checks
    /// again when the event is delivered.
    fn gate_open_to_user(&self, number: u8) -> bool {
        let idt = &self.vmcb.save.idtr;
        let rights = idt.base + number as u64 * 16 + 5;
        let physical = self.walk(rights).filter(|p| self.machine.ram.contains(*p));
        // SAFETY: RAM of the guest (checked).
        physical.is_some_and(|p| unsafe { physical::byte(p) } >> 5 & 3 == 3)
    }

    /// INT1: #DB without touching DR6.
    pub(super) fn icebp(&mut self) {
        self.enter_kernel();
        self.skip_software(1);
        self.inject(Event::exception(vector::DB));
    }
}

/// Legacy prefixes and REX.
fn is_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}
