//! The loop around VMRUN, and what VMRUN does not switch: APM 2, 15.5
//!
//! VMRUN and #VMEXIT switch RAX, RSP, RIP, RFLAGS, the control registers and CS, SS, DS, ES. Of the other general
//! registers, those that a called function may change are kept in [`Registers`]; RBP and R12 to R15 stay the guest's
//! while the handler runs, which gives them back as it found them (System V ABI). FS, GS, TR, LDTR, the SYSCALL MSRs
//! and the FPU stay the guest's all the time: this program is built without floating point and uses none of them.
use core::arch::{asm, naked_asm};
use core::mem::offset_of;

use secvisor_amd64::vmcb::Vmcb;

use crate::vcpu::Vcpu;

/// The guest's registers that a handler may read or change; RAX and RSP are in the VMCB.
#[repr(C, align(16))]
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
    /// R8.
    pub r8: u64,
    /// R9.
    pub r9: u64,
    /// R10.
    pub r10: u64,
    /// R11.
    pub r11: u64,
    vcpu: u64,
    vmcb: u64,
}

impl Registers {
    /// Zero, but for what the loop needs.
    pub fn clear(&mut self) {
        for register in [&mut self.rbx, &mut self.rcx, &mut self.rdx, &mut self.rsi, &mut self.rdi] {
            *register = 0;
        }
        (self.r8, self.r9, self.r10, self.r11) = (0, 0, 0, 0);
    }
}

/// Bytes of the handler's stack.
const STACK: usize = 32 * 1024;

/// A CPU's stack; the guest's registers lie above it, so that RSP finds them after an exit.
#[repr(C, align(4096))]
pub struct Stack {
    stack: [u8; STACK],
    /// The guest's registers.
    pub registers: Registers,
}

/// Runs the guest for ever, [`Vcpu::exit`] after each exit, on the stack below `registers`.
///
/// # Safety
/// EFER.SVME is set, VM_HSAVE_PA names a page of ours, GIF is clear. `registers` are those of a [`Stack`] that nobody
/// else runs on; `vcpu` uses them and `vmcb`, and all three live for ever. At every VMRUN the block is consistent (APM
/// 2, 15.5.1) and its nested table maps nothing of ours, so that the guest changes no memory of this program but these.
pub unsafe fn guest_loop(vcpu: *mut Vcpu, vmcb: *mut Vmcb, registers: *mut Registers) -> ! {
    // SAFETY: the caller's.
    unsafe {
        (*registers).vcpu = vcpu as u64;
        (*registers).vmcb = vmcb as u64;
        enter(registers)
    }
}

#[unsafe(naked)]
unsafe extern "sysv64" fn enter(registers: *mut Registers) -> ! {
    naked_asm!(
        "mov rsp, rdi",
        "2:",
        "mov rbx, [rsp + {rbx}]; mov rcx, [rsp + {rcx}]; mov rdx, [rsp + {rdx}]; mov rsi, [rsp + {rsi}]",
        "mov rdi, [rsp + {rdi}]; mov r8, [rsp + {r8}]; mov r9, [rsp + {r9}]; mov r10, [rsp + {r10}]",
        "mov r11, [rsp + {r11}]; mov rax, [rsp + {vmcb}]", // its physical address: memory is mapped one to one
        "vmrun rax",
        "mov [rsp + {rbx}], rbx; mov [rsp + {rcx}], rcx; mov [rsp + {rdx}], rdx; mov [rsp + {rsi}], rsi",
        "mov [rsp + {rdi}], rdi; mov [rsp + {r8}], r8; mov [rsp + {r9}], r9; mov [rsp + {r10}], r10",
        "mov [rsp + {r11}], r11; mov rdi, [rsp + {vcpu}]",
        "call {exit}",
        "jmp 2b",
        rbx = const offset_of!(Registers, rbx),
        rcx = const offset_of!(Registers, rcx),
        rdx = const offset_of!(Registers, rdx),
        rsi = const offset_of!(Registers, rsi),
        rdi = const offset_of!(Registers, rdi),
        r8 = const offset_of!(Registers, r8),
        r9 = const offset_of!(Registers, r9),
        r10 = const offset_of!(Registers, r10),
        r11 = const offset_of!(Registers, r11),
        vcpu = const offset_of!(Registers, vcpu),
        vmcb = const offset_of!(Registers, vmcb),
        exit = sym Vcpu::exit,
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
