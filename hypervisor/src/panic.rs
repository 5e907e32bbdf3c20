//! Our own bug: say where, stop the machine. What the guest does wrong never comes here.
use core::panic::PanicInfo;

use secvisor_rules::apic::To;

use crate::cpu::{apic, instr};
use crate::crowd::request;
use crate::machine::MACHINE;
use crate::report;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if let Some(machine) = MACHINE.get() {
        // Not by number: this may be the wrong stack.
        let me = machine.crowd.cpus.iter().position(|cpu| cpu.apic_id == apic::id()).unwrap_or(0);
        machine.crowd.ask(me, To::Others, request::STOP);
    }
    report::guest_stopped();
    report!("stopped by its own fault: {info}");
    instr::halt()
}
