//! On which CPU a thread runs.

use std::io;

/// Keeps the calling thread on this CPU.
pub fn stay_on(cpu: usize) -> io::Result<()> {
    // SAFETY: all zeros is a set of no CPUs; it is on the stack and as large as said.
    let failed = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Keeps the calling thread on the CPU it is on.
pub fn stay() -> io::Result<()> {
    // SAFETY: has no effect.
    let cpu = unsafe { libc::sched_getcpu() };
    stay_on(usize::try_from(cpu).map_err(|_| io::Error::last_os_error())?)
}
