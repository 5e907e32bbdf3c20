//! I/O ports: the report's UART is absent, the rest as the rules say
use secvisor_amd64::event::{Event, vector};
use secvisor_amd64::exit::IoAccess;
use secvisor_rules::port::PortWrite;
use secvisor_rules::{Frame, Rule, Violation};

use crate::cpu::instr;
use crate::report;
use crate::vcpu::Vcpu;

impl Vcpu {
    pub(super) fn port(&mut self) {
        let access = IoAccess(self.vmcb.control.exit_info1);
        let (port, size) = (access.port(), access.size());
        if access.string() {
            self.violation(Violation { rule: Rule::Port, frame: Frame(0), nearest: None });
            return self.deliver(Event::exception_with(vector::GP, 0));
        }
        let ours = report::COM2 < port + size as u16 && port < report::COM2 + 8;
        let mask = u32::MAX >> (32 - 8 * size.clamp(1, 4));
        match (access.read(), ours) {
            (true, _) => {
                let value = if ours { u32::MAX } else { instr::input(port, size) };
                let rax = &mut self.vmcb.save.rax;
                // A 4-byte result clears the upper half, as any write to a 32-bit register.
                *rax = if size == 4 { 0 } else { *rax & !(mask as u64) } | (value & mask) as u64;
            }
            (false, true) => {}
            (false, false) => self.port_write(port, size, self.vmcb.save.rax as u32 & mask),
        }
        // EXITINFO2 is the address of the next instruction (APM 2, 15.10.2).
        self.vmcb.save.rip = self.vmcb.control.exit_info2;
        self.vmcb.control.interrupt_shadow = 0;
    }

    fn port_write(&mut self, port: u16, size: u32, value: u32) {
        let machine = self.machine;
        let mut core = machine.core.lock();
        let mut decision = core.ports.write(port, size, value);
        if let (PortWrite::Pass | PortWrite::Keep, Some((index, size, value))) = (decision, core.ports.index(port)) {
            // While nobody else can change what an index port names.
            instr::output(index, size, value);
        }
        match decision {
            PortWrite::Pass => instr::output(port, size, value),
            PortWrite::Keep if instr::input(port, size) == value => decision = PortWrite::Ignore,
            _ => {}
        }
        drop(core);
        match decision {
            PortWrite::Ignore | PortWrite::Pass => {}
            PortWrite::Keep | PortWrite::Refuse => {
                let violation = Violation { rule: Rule::Port, frame: Frame(0), nearest: None };
                self.violation_of(violation, format_args!(" action=refused port={port:#x} value={value:#x}"));
            }
            PortWrite::Reset => self.reset(),
        }
    }
}
