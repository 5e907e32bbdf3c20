//! Steps 4 and 5: what a hole in an approved driver is good for.

use crate::done;
use crate::outcome::{Ending, Outcome};
use secvisor_guest::affinity::stay;
use secvisor_guest::vulnerable::{SMEP_AND_SMAP, Vulnerable};
use std::fs;
use std::io;
use std::ptr;

/// What the attacker's code returns.
const MARK: u64 = 0x1337;

/// `endbr64; mov eax, 0x1337; ret`
const CODE: [u8; 10] = [0xf3, 0x0f, 0x1e, 0xfa, 0xb8, 0x37, 0x13, 0x00, 0x00, 0xc3];

const PAGE: usize = 4096;

/// Overwrites a system call's code, and makes the system call.
pub fn text_overwrite() -> Result<Outcome, Outcome> {
    let device = Vulnerable::open()?;
    let victim = kernel_symbol("__x64_sys_sched_get_priority_max")?;
    let approved_bytes: [u8; CODE.len()] = device.read(victim)?;
    let approved_result = highest_priority();
    device.write(victim, CODE)?;
    let result = highest_priority();
    let bytes: [u8; CODE.len()] = device.read(victim)?;
    if result == MARK as i64 && bytes == CODE {
        device.write(victim, approved_bytes)?;
        return Ok(done(Ending::Ran, format!("the system call returned {MARK} instead of {approved_result}")));
    }
    if result == approved_result && bytes == approved_bytes {
        return Ok(done(Ending::Restored, format!("the system call still returns {result}, its bytes are back")));
    }
    Err(done(Ending::Failed, format!("the system call returned {result}, its bytes are {bytes:02x?}")))
}

/// `sched_get_priority_max` is a few instructions long, and nobody else's business.
fn highest_priority() -> i64 {
    // SAFETY: it takes a number and touches no memory.
    unsafe { libc::syscall(libc::SYS_sched_get_priority_max, libc::SCHED_FIFO) }
}

/// Writes code to kernel heap and calls it.
pub fn heap_code() -> Result<Outcome, Outcome> {
    let device = Vulnerable::open()?;
    let address = device.allocate()?;
    device.write(address, CODE)?;
    call_unprotected(&device, address, "kernel heap")
}

/// Writes code to a page of this process and makes the kernel call it.
pub fn user_page_code() -> Result<Outcome, Outcome> {
    let device = Vulnerable::open()?;
    let page = new_page()?;
    page[..CODE.len()].copy_from_slice(&CODE);
    call_unprotected(&device, page.as_ptr() as u64, "a user page")
}

/// Clears NX, SMEP and SMAP, so that nothing of Linux or the CPU's stands in the way, and calls.
fn call_unprotected(device: &Vulnerable, address: u64, place: &str) -> Result<Outcome, Outcome> {
    device.make_executable(address)?;
    // Each CPU has a CR4 of its own.
    stay()?;
    device.clear_cr4(SMEP_AND_SMAP)?;
    if device.protections()?.keep_kernel_out() {
        return Err(done(Ending::Failed, "SMEP and SMAP stay on"));
    }
    // If the call is refused, this is the last that is heard of this process.
    println!("code in {place}, with NX, SMEP and SMAP off");
    let result = device.call(address)?;
    if result == MARK {
        Ok(done(Ending::Ran, format!("code in {place} ran in kernel mode and returned {MARK:#x}")))
    } else {
        Err(done(Ending::Failed, format!("the call returned {result:#x}")))
    }
}

/// A page of this process, writable and not executable.
fn new_page() -> io::Result<&'static mut [u8; PAGE]> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping of one zeroed page, which is never unmapped.
    unsafe {
        let page = libc::mmap(ptr::null_mut(), PAGE, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(&mut *page.cast())
    }
}

/// Where the kernel has a symbol.
fn kernel_symbol(name: &str) -> Result<u64, Outcome> {
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let line = symbols.lines().find(|line| line.split_whitespace().nth(2) == Some(name));
    let address = line.and_then(|line| u64::from_str_radix(line.split_whitespace().next()?, 16).ok());
    address.ok_or_else(|| done(Ending::Failed, format!("the kernel has no {name}")))
}
