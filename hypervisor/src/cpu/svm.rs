//! Enabling SVM: APM 2, 15.4
use core::arch::asm;

use secvisor_amd64::{cpuid, msr, reg};

use super::instr;

/// What the processor can do for us.
#[derive(Clone, Copy)]
pub struct Features {
    /// Number of address space identifiers, ours (0) included.
    pub asids: u32,
    /// The next RIP is in the VMCB.
    pub next_rip: bool,
    /// Physical address width in bits.
    pub physical_bits: u32,
}

/// Why SecVisor cannot run on this processor.
#[derive(Clone, Copy)]
pub enum Missing {
    /// No SVM.
    Svm,
    /// SVM is there but switched off by the firmware.
    Disabled,
    /// No nested paging.
    NestedPaging,
}

/// Looks for what is needed.
pub fn probe() -> Result<Features, Missing> {
    if instr::cpuid(0x8000_0000, 0)[0] < cpuid::LEAF_SVM || instr::cpuid(0x8000_0001, 0)[2] & cpuid::EXT_SVM == 0 {
        return Err(Missing::Svm);
    }
    let svm = instr::cpuid(cpuid::LEAF_SVM, 0);
    if svm[3] & cpuid::SVM_NESTED_PAGING == 0 {
        return Err(Missing::NestedPaging);
    }
    // SAFETY: processors with SVM have VM_CR (APM 2, 15.30.1).
    if unsafe { instr::rdmsr(msr::VM_CR) } & msr::VM_CR_SVMDIS != 0 {
        return Err(Missing::Disabled);
    }
    Ok(Features {
        asids: svm[1],
        next_rip: svm[3] & cpuid::SVM_NRIPS != 0,
        physical_bits: instr::cpuid(cpuid::LEAF_ADDRESS_SIZE, 0)[0] & 0xff,
    })
}

#[repr(C, align(4096))]
struct HostSave([u8; 4096]);
static mut HOST_SAVE: HostSave = HostSave([0; 4096]);

/// Turns SVM on and clears GIF: from here on no interrupt and no NMI reaches this program.
pub fn enable() {
    let host_save = &raw mut HOST_SAVE as u64;
    // SAFETY: `probe` found SVM. The host save area is a page nobody else uses. CLGI changes no memory.
    unsafe {
        instr::wrmsr(msr::EFER, instr::rdmsr(msr::EFER) | reg::EFER_SVME);
        instr::wrmsr(msr::VM_HSAVE_PA, host_save);
        asm!("clgi", options(nomem, nostack));
    }
}
