//! VMRUN and what it does not switch: APM 2, 15.5
//!
//! VMRUN and #VMEXIT switch RAX, RSP, RIP, RFLAGS, the control registers and CS, SS, DS, ES. The other general
//! registers are switched here. FS, GS, TR, LDTR, the SYSCALL MSRs and the FPU stay the guest's all the time: this
//! program is built without floating point and uses none of them.
use core::arch::{asm, naked_asm};
use core::mem::offset_of;

use secvisor_amd64::vmcb::Vmcb;

/// The guest's general registers but RAX and RSP, which are in the VMCB.
#[repr(C)]
#[derive(Default, Clone, Copy)]
pub struct Registers {
    /// RBX.
    pub rbx: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RSI.
    pub rsi: u64,
    /// RDI.
    pub rdi: u64,
    /// RBP.
    pub rbp: u64,
    /// R8 to R15.
    pub r8_15: [u64; 8],
}

/// Runs the guest until it exits.
///
/// # Safety
/// EFER.SVME is set, VM_HSAVE_PA names a page of ours, GIF is clear, `vmcb` is consistent (APM 2, 15.5.1) and its
/// nested table maps nothing of ours. Then the guest can change no memory of this program but `vmcb` and `registers`.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn run(vmcb: *mut Vmcb, registers: *mut Registers) {
    naked_asm!(
        "push rbx; push rbp; push r12; push r13; push r14; push r15",
        "push rsi",
        "mov rax, rdi", // the VMCB's physical address: memory is mapped one to one
        "mov rbx, [rsi + {rbx}]; mov rcx, [rsi + {rcx}]; mov rdx, [rsi + {rdx}]; mov rbp, [rsi + {rbp}]",
        "mov r8, [rsi + {r8}]; mov r9, [rsi + {r8} + 8]; mov r10, [rsi + {r8} + 16]; mov r11, [rsi + {r8} + 24]",
        "mov r12, [rsi + {r8} + 32]; mov r13, [rsi + {r8} + 40]; mov r14, [rsi + {r8} + 48]",
        "mov r15, [rsi + {r8} + 56]; mov rdi, [rsi + {rdi}]; mov rsi, [rsi + {rsi}]",
        "vmrun rax",
        "xchg rsi, [rsp]", // the guest's RSI goes to the stack, our pointer comes back
        "mov [rsi + {rbx}], rbx; mov [rsi + {rcx}], rcx; mov [rsi + {rdx}], rdx; mov [rsi + {rbp}], rbp",
        "mov [rsi + {r8}], r8; mov [rsi + {r8} + 8], r9; mov [rsi + {r8} + 16], r10; mov [rsi + {r8} + 24], r11",
        "mov [rsi + {r8} + 32], r12; mov [rsi + {r8} + 40], r13; mov [rsi + {r8} + 48], r14",
        "mov [rsi + {r8} + 56], r15; mov [rsi + {rdi}], rdi",
        "pop rax; mov [rsi + {rsi}], rax",
        "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
        "ret",
        rbx = const offset_of!(Registers, rbx),
        rcx = const offset_of!(Registers, rcx),
        rdx = const offset_of!(Registers, rdx),
        rsi = const offset_of!(Registers, rsi),
        rdi = const offset_of!(Registers, rdi),
        rbp = const offset_of!(Registers, rbp),
        r8 = const offset_of!(Registers, r8_15),
    )
}

/// Loads FS, GS, TR, LDTR, KernelGsBase, the SYSCALL and SYSENTER MSRs from a VMCB.
///
/// # Safety
/// EFER.SVME is set. The host uses none of these.
pub unsafe fn vmload(vmcb: *const Vmcb) {
    // SAFETY: the caller's.
    unsafe { asm!("vmload rax", in("rax") vmcb, options(nostack, preserves_flags)) };
}

/// Stores the same into a VMCB.
///
/// # Safety
/// EFER.SVME is set, `vmcb` is ours.
pub unsafe fn vmsave(vmcb: *mut Vmcb) {
    // SAFETY: the caller's.
    unsafe { asm!("vmsave rax", in("rax") vmcb, options(nostack, preserves_flags)) };
}
