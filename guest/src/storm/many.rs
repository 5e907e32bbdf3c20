//! The same attack again and again.

use secvisor_guest::vulnerable::{SMEP_AND_SMAP, Vulnerable};
use std::error::Error;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// What the attacker's code returns.
const MARK: u64 = 0x1337;

/// `endbr64; mov eax, 0x1337; ret`
const CODE: [u8; 10] = [0xf3, 0x0f, 0x1e, 0xfa, 0xb8, 0x37, 0x13, 0x00, 0x00, 0xc3];

/// Calls code in kernel heap for so long, each time in a process of its own.
pub fn calls(seconds: u64) -> Result<String, Box<dyn Error>> {
    let device = Vulnerable::open()?;
    let protections = device.protections()?;
    let address = device.allocate()?;
    device.write(address, CODE)?;
    device.make_executable(address)?;
    let (mut ran, mut killed, mut other) = (0, 0, 0);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        match in_child(|| {
            device.clear_cr4(SMEP_AND_SMAP).is_ok() && device.call(address).is_ok_and(|result| result == MARK)
        })? {
            status if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL => killed += 1,
            0 => ran += 1,
            _ => other += 1,
        }
    }
    device.restore(protections)?;
    Ok(format!("ran={ran} killed={killed} other={other}"))
}

/// How a child ended that exits with status 0 if this holds.
fn in_child(holds: impl FnOnce() -> bool) -> io::Result<libc::c_int> {
    // SAFETY: this program has one thread, so the child may do whatever its parent may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let status = i32::from(!holds());
            // SAFETY: it ends the child at once.
            unsafe { libc::_exit(status) }
        }
        child => {
            let mut status = 0;
            // SAFETY: the child is ours, and the status is a place of ours.
            let ended = unsafe { libc::waitpid(child, &mut status, 0) };
            if ended == child { Ok(status) } else { Err(io::Error::last_os_error()) }
        }
    }
}

/// Overwrites a system call's code and makes the system call, so many times.
pub fn tampering(times: u64) -> Result<String, Box<dyn Error>> {
    let device = Vulnerable::open()?;
    let victim = kernel_symbol("__x64_sys_sched_get_priority_max")?;
    let approved: [u8; CODE.len()] = device.read(victim)?;
    let honest = highest_priority();
    let (mut ran, mut restored, mut other) = (0, 0, 0);
    for _ in 0..times {
        device.write(victim, CODE)?;
        let result = highest_priority();
        let bytes: [u8; CODE.len()] = device.read(victim)?;
        match (u64::try_from(result), bytes) {
            (Ok(MARK), CODE) => ran += 1,
            (_, bytes) if result == honest && bytes == approved => restored += 1,
            _ => other += 1,
        }
        device.write(victim, approved)?;
    }
    Ok(format!("ran={ran} restored={restored} other={other}"))
}

fn highest_priority() -> libc::c_long {
    // SAFETY: it takes a number and touches no memory.
    unsafe { libc::syscall(libc::SYS_sched_get_priority_max, libc::SCHED_FIFO) }
}

/// Where the kernel has a symbol.
fn kernel_symbol(name: &str) -> Result<u64, Box<dyn Error>> {
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let line = symbols.lines().find(|line| line.split_whitespace().nth(2) == Some(name));
    let address = line.and_then(|line| line.split_whitespace().next()).ok_or("no such symbol")?;
    Ok(u64::from_str_radix(address, 16)?)
}
