//! Our own exceptions: every one is a bug of ours
//!
//! Without a table of its own a fault in this program would reset the machine without a word. GIF is clear, so nothing
//! but an exception comes here, and NMIs where they are waited for.
use core::arch::{asm, global_asm};

use crate::mem::once::{Once, SetOnce};

/// Vectors covered.
const VECTORS: usize = 32;
/// The NMI's.
const NMI: usize = 2;
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
    "host_wait:",
    "stgi",
    "4: hlt",
    "clgi",
    "ret",
    // NMIs only wake a CPU that waits there; one that comes right before the HLT must not be slept through.
    "host_nmi:",
    "push rax",
    "lea rax, [rip + 4b]",
    "cmp [rsp + 8], rax",
    "jne 3f",
    "inc qword ptr [rsp + 8]",
    "3: pop rax",
    "iretq",
    ".popsection",
    fault = sym fault,
);

unsafe extern "C" {
    static host_exception_stubs: u8;
    static host_nmi: u8;
    fn host_wait();
}

extern "sysv64" fn fault(vector: u64, error: u64, rip: u64) -> ! {
    panic!("exception {vector}, error code {error:#x}, at {rip:#x} in the hypervisor");
}

/// An interrupt gate (APM 2, 4.8.4).
#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Gate([u64; 2]);

static TABLE: Once<[Gate; VECTORS]> = Once::new([Gate([0; 2]); VECTORS]);

/// Fills the table in and loads it.
pub fn init() {
    let table = TABLE.take();
    let stubs = &raw const host_exception_stubs as u64;
    for (i, gate) in table.iter_mut().enumerate() {
        let at = if i == NMI { &raw const host_nmi as u64 } else { stubs + (i * STUB) as u64 };
        let (selector, present_interrupt_gate) = (8, 0x8e00);
        *gate =
            Gate([at & 0xffff | selector << 16 | present_interrupt_gate << 32 | (at >> 16 & 0xffff) << 48, at >> 32]);
    }
    POINTER.set([((VECTORS * 16 - 1) as u64) << 48, table.as_ptr() as u64]);
    load();
}

/// What LIDT reads: limit and address in bytes 6 to 15.
static POINTER: SetOnce<[u64; 2]> = SetOnce::new();

/// Waits for an NMI. One that has come since GIF was cleared ends it at once.
pub fn wait_for_nmi() {
    // SAFETY: changes no memory and no register but RSP, for the time of it. GIF is set meanwhile: interrupts are off, so
    // nothing but NMIs (and SMIs) can come, and those return.
    unsafe { host_wait() };
}

/// Loads the table on this CPU.
pub fn load() {
    let pointer = POINTER.get().expect("the table is filled in first");
    // SAFETY: LIDT reads 2 bytes of limit and 8 of address. The table lives for ever and its gates lead to the stubs
    // above, in the code segment the boot code loaded.
    unsafe { asm!("lidt [{0} + 6]", in(reg) pointer, options(readonly, nostack, preserves_flags)) };
}
