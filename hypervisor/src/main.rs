//! SecVisor's hypervisor: hardware, and no rule
//!
//! Boot order: [`boot::head`] → [`start`] → [`boot::launch`] → [`vcpu::Vcpu::run`]. From there on one loop: the guest
//! exits, [`exit`] turns the exit into an event for the rules, the rules decide, the guest goes on.
#![no_std]
#![no_main]

mod boot;
mod cpu;
mod crowd;
mod exit;
mod machine;
mod mem;
mod nested;
mod opcode;
mod panic;
mod report;
mod startup;
mod stats;
mod switch;
mod vcpu;
mod violation;
mod window;

/// Where [`boot::head`] goes with what the loader left in EAX and EBX.
extern "sysv64" fn start(magic: u32, info: u32) -> ! {
    report::init();
    cpu::idt::init();
    report!("version {}", env!("CARGO_PKG_VERSION"));
    match boot::launch::launch(magic, info) {
        Ok(vcpu) => {
            report::guest_starts();
            vcpu.run()
        }
        Err(error) => {
            report!("cannot start: {error}");
            cpu::instr::halt()
        }
    }
}
