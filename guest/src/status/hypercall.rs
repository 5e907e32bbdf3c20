//! The one hypercall a program needs.

use std::arch::asm;

/// What to say when nobody answers.
pub const NOT_BENEATH: &str = "not running beneath SecVisor\n";

/// "SVC" and the number of the function: 0, status.
const STATUS: u64 = 0x5356_4300;

/// What RAX holds afterwards when there is no such counter.
const NO_SUCH_COUNTER: u64 = u64::MAX;

/// The counter of this index.
pub fn counter(index: u64) -> Option<u64> {
    let mut rax = STATUS;
    // SAFETY: VMMCALL takes its arguments in RAX and RDI and gives its result in RAX; SecVisor changes no other
    // register and no memory, and a CPU without SecVisor raises SIGILL.
    unsafe { asm!("vmmcall", inlateout("rax") rax, in("rdi") index, options(nostack)) };
    (rax != NO_SUCH_COUNTER).then_some(rax)
}

/// Makes the CPU's refusal of VMMCALL, which is what happens without a hypervisor, end this program with a clear
/// line and status 1.
pub fn exit_if_not_understood() {
    let handler: extern "C" fn(libc::c_int) = say_and_exit;
    // SAFETY: the handler calls only functions that signal-safety(7) allows.
    unsafe { libc::signal(libc::SIGILL, handler as libc::sighandler_t) };
}

extern "C" fn say_and_exit(_signal: libc::c_int) {
    // SAFETY: the pointer and length are those of a constant string.
    unsafe {
        libc::write(libc::STDERR_FILENO, NOT_BENEATH.as_ptr().cast(), NOT_BENEATH.len());
        libc::_exit(1);
    }
}
