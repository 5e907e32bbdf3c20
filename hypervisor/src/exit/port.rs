//! The report's UART: absent for the guest
use secvisor_amd64::event::{Event, vector};
use secvisor_amd64::exit::IoAccess;

use crate::vcpu::Vcpu;

impl Vcpu {
    /// Reads give all ones, writes come to nothing.
    pub(super) fn port(&mut self) {
        let access = IoAccess(self.vmcb.control.exit_info1);
        if access.string() {
            return self.deliver(Event::exception_with(vector::GP, 0));
        }
        if access.read() {
            let save = &mut self.vmcb.save;
            save.rax = match access.size() {
                1 => save.rax | 0xff,
                2 => save.rax | 0xffff,
                _ => 0xffff_ffff,
            };
        }
        // EXITINFO2 is the address of the next instruction (APM 2, 15.10.2).
        self.vmcb.save.rip = self.vmcb.control.exit_info2;
        self.vmcb.control.interrupt_shadow = 0;
    }
}
