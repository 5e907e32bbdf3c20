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
    /// EFER bits the guest may set: those this processor has (APM 2, 3.1.7).
    pub efer: u64,
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
    /// Too few address space identifiers.
    Asids,
    /// The firmware has switched memory encryption on.
    Encryption,
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
    if svm[1] < 4 {
        return Err(Missing::Asids);
    }
    // SAFETY: every processor with SVM has SYSCFG.
    if unsafe { instr::rdmsr(msr::SYSCFG) } & msr::SYSCFG_MEM_ENCRYPT != 0 {
        return Err(Missing::Encryption);
    }
    Ok(Features {
        efer: efer_bits(),
        asids: svm[1],
        next_rip: svm[3] & cpuid::SVM_NRIPS != 0,
        physical_bits: instr::cpuid(cpuid::LEAF_ADDRESS_SIZE, 0)[0] & 0xff,
    })
}

/// SCE, LME, LMA and NXE always; the others where CPUID says so (APM 3, appendix E).
fn efer_bits() -> u64 {
    let bit = |leaf: u32, register: usize, bit: u32, efer: u32| {
        let known = instr::cpuid(0x8000_0000, 0)[0] >= leaf;
        ((known && instr::cpuid(leaf, 0)[register] >> bit & 1 != 0) as u64) << efer
    };
    let always = reg::EFER_SCE | reg::EFER_LME | reg::EFER_LMA | reg::EFER_NXE;
    let (ffxsr, translation_cache) = (bit(0x8000_0001, 3, 25, 14), bit(0x8000_0001, 2, 17, 15));
    let (mcommit, interruptible_wbinvd) = (bit(0x8000_0008, 1, 8, 17), bit(0x8000_0008, 1, 13, 18));
    let (upper_address_ignore, automatic_ibrs) = (bit(0x8000_0021, 0, 7, 20), bit(0x8000_0021, 0, 8, 21));
    always | ffxsr | translation_cache | mcommit | interruptible_wbinvd | upper_address_ignore | automatic_ibrs
}

/// Where VMRUN keeps the host's state (APM 2, 15.30.4).
#[repr(C, align(4096))]
pub struct HostSave([u8; 4096]);

/// Turns SVM on and clears GIF: from here on no interrupt and no NMI reaches this program but where it waits for one. An
/// INIT that is not intercepted becomes an exception (APM 2, 15.30.1).
pub fn enable(host_save: &'static mut HostSave) {
    // SAFETY: `probe` found SVM. The host save area is a page nobody else uses. CLGI changes no memory.
    unsafe {
        instr::wrmsr(msr::EFER, instr::rdmsr(msr::EFER) | reg::EFER_SVME);
        instr::wrmsr(msr::VM_HSAVE_PA, host_save as *mut _ as u64);
        instr::wrmsr(msr::VM_CR, instr::rdmsr(msr::VM_CR) | msr::VM_CR_R_INIT);
        asm!("clgi", options(nomem, nostack));
    }
}
