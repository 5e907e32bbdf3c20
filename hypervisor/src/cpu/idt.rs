//! Our own exceptions: every one is a bug of ours
//!
//! Without a table of its own a fault in this program would reset the machine without a word. GIF is clear, so nothing
//! but an exception comes here.
use core::arch::{asm, global_asm};

use crate::mem::once::Once;

/// Vectors covered.
const VECTORS: usize = 32;
/// Bytes from one stub to the next.
const STUB: usize = 16;

global_asm!(
    ".pushsection .text",
    ".balign 16",
    "host_exception_stubs:",
    ".set vector, 0",
    ".rept 32",
    ".balign 16",
    // Vectors with an error code (APM 2, 8.2): the others get a zero in its place.
    ".if (0x60227d00 >> vector) & 1 == 0",
    "push 0",
    ".endif",
    "push vector",
    "jmp 2f",
    ".set vector, vector + 1",
    ".endr",
    "2: pop rdi; pop rsi; pop rdx",
    "and rsp, -16",
    "call {fault}",
    ".popsection",
    fault = sym fault,
);

unsafe extern "C" {
    static host_exception_stubs: u8;
}

extern "sysv64" fn fault(vector: u64, error: u64, rip: u64) -> ! {
    panic!("exception {vector}, error code {error:#x}, at {rip:#x} in the hypervisor");
}

/// An interrupt gate (APM 2, 4.8.4).
#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Gate([u64; 2]);

static TABLE: Once<[Gate; VECTORS]> = Once::new([Gate([0; 2]); VECTORS]);

/// Loads the table.
pub fn load() {
    let table = TABLE.take();
    let stubs = &raw const host_exception_stubs as u64;
    for (i, gate) in table.iter_mut().enumerate() {
        let at = stubs + (i * STUB) as u64;
        let (selector, present_interrupt_gate) = (8, 0x8e00);
        *gate =
            Gate([at & 0xffff | selector << 16 | present_interrupt_gate << 32 | (at >> 16 & 0xffff) << 48, at >> 32]);
    }
    let pointer = [((VECTORS * 16 - 1) as u64) << 48, table.as_ptr() as u64];
    // SAFETY: LIDT reads 2 bytes of limit and 8 of address, here bytes 6 to 15 of `pointer`. The table lives for ever and
    // its gates lead to the stubs above, in the code segment the boot code loaded.
    unsafe { asm!("lidt [{0} + 6]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags)) };
}
