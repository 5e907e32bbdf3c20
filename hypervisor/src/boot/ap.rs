//! Starting the other CPUs: APM 2, 16.5 and 14.1.3
//!
//! One after the other: INIT, two start-up commands, then the CPU says that it is there. It goes on to run its virtual CPU,
//! which waits for the guest to start it.
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::cpu::{apic, idt, instr, mtrr};
use crate::crowd::Cpu;
use crate::mem::physical;
use crate::vcpu::Vcpu;

/// The next CPU's stack.
pub static STACK: AtomicU64 = AtomicU64::new(0);
/// The next CPU's virtual CPU.
pub static VCPU: AtomicPtr<Vcpu> = AtomicPtr::new(core::ptr::null_mut());

unsafe extern "C" {
    static ap_start16: u8;
    static ap_start16_end: u8;
}

/// Cycles of the time-stamp counter that are 10 ms or more on any processor.
const TEN_MS: u64 = 60_000_000;

/// Starts a CPU at a page of low memory. `false` if it does not answer within a second or more.
///
/// # Safety
/// The page is free RAM below 640 KiB until this returns.
pub unsafe fn bring_up(page: u64, cpu: &Cpu, vcpu: &'static mut Vcpu) -> bool {
    let (from, end) = (&raw const ap_start16 as u64, &raw const ap_start16_end as u64);
    // SAFETY: code of ours, to the caller's page.
    unsafe { physical::relocate(from, page, end - from) };
    STACK.store(vcpu.stack(), Ordering::SeqCst);
    VCPU.store(vcpu, Ordering::SeqCst);
    apic::send(cpu.apic_id, apic::INIT);
    wait(cpu, 1);
    for tens in [2, 200] {
        apic::send(cpu.apic_id, apic::STARTUP | (page >> 12) as u32);
        if wait(cpu, tens) {
            return true;
        }
    }
    false
}

fn wait(cpu: &Cpu, tens: u64) -> bool {
    let start = instr::rdtsc();
    while !cpu.online.load(Ordering::Acquire) && instr::rdtsc() - start < tens * TEN_MS {
        core::hint::spin_loop();
    }
    cpu.online.load(Ordering::Acquire)
}

/// Where [`super::head`] goes on every CPU but the first.
pub extern "sysv64" fn start(vcpu: &'static mut Vcpu) -> ! {
    idt::load();
    mtrr::copy();
    if !apic::in_its_place() {
        // No answer: launch fails.
        instr::halt();
    }
    vcpu.run()
}
