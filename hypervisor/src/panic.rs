//! Our own bug: say where, stop the machine. What the guest does wrong never comes here.
use core::panic::PanicInfo;

use crate::cpu::instr;
use crate::report;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    report::guest_stopped();
    report!("stopped by its own fault: {info}");
    instr::halt()
}
