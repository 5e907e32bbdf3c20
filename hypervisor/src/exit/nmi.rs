//! NMIs: SecVisor's own, and the guest's
//!
//! CPUs wake each other with NMIs ([`crate::crowd`]), so all are intercepted. One that nobody here has sent is the
//! guest's. The processor does not keep the next one back while the guest handles an intercepted one (APM 2, 15.20), so it
//! is kept back here until the guest's IRET. Two that come at the same time are one: as always with NMIs.
use secvisor_amd64::event::Event;
use secvisor_amd64::intercept::misc1;

use crate::cpu::instr;
use crate::vcpu::Vcpu;

/// NMIs of the guest.
#[derive(Default)]
pub struct Nmi {
    /// It is handling one.
    handling: bool,
    /// Another has come.
    pending: bool,
}

impl Vcpu {
    pub(super) fn nmi(&mut self) {
        instr::take_nmi();
        if !self.cpu.took_nmi() {
            self.guest_nmi();
        }
    }

    fn guest_nmi(&mut self) {
        if self.nmi.handling {
            self.nmi.pending = true;
            return;
        }
        self.nmi.handling = true;
        self.passing |= misc1::IRET;
        self.vmcb.control.intercept_misc1 |= misc1::IRET;
        self.deliver(Event::NMI);
    }

    /// The guest has handled its NMI. The next one comes before the IRET: Linux's handler may be entered again there.
    pub(super) fn iret(&mut self) {
        self.nmi.handling = false;
        self.passing &= !misc1::IRET;
        self.vmcb.control.intercept_misc1 &= !misc1::IRET;
        if core::mem::take(&mut self.nmi.pending) {
            self.guest_nmi();
        }
    }
}
