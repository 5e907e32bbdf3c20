//! What the guest is not told about the processor: APM 3, appendix E

/// A feature bit that is cleared until the first user-mode instruction, and why.
pub struct Masked {
    /// CPUID leaf.
    pub leaf: u32,
    /// Subleaf, for the leaves that have them.
    pub subleaf: u32,
    /// Register: 0 EAX, 1 EBX, 2 ECX, 3 EDX.
    pub register: usize,
    /// Bits.
    pub bits: u32,
    /// Why.
    pub reason: &'static str,
}

const fn mask(leaf: u32, subleaf: u32, register: usize, bits: u32, reason: &'static str) -> Masked {
    Masked { leaf, subleaf, register, bits, reason }
}

/// All of them.
pub const MASKED: [Masked; 9] = [
    mask(0x1, 0, 2, 1 << 31, "hypervisor present: paravirtual kernels patch in functions the approval does not list"),
    mask(0x7, 0, 2, 1 << 7, "shadow stacks: SYSCALL is completed in software and does not switch them"),
    mask(0x7, 0, 3, 1 << 20, "indirect branch tracking: SYSCALL is completed in software and does not arm it"),
    mask(0x7, 1, 0, 1 << 17, "FRED: events enter the kernel in another way than the one that is mediated"),
    mask(0x8000_0001, 0, 2, 1 << 2, "SVM: the hypervisor below owns it"),
    mask(0x8000_0001, 0, 2, 1 << 12, "SKINIT: would start code outside SecVisor"),
    mask(
        0x8000_0007,
        0,
        1,
        1 << 3,
        "scalable machine check: its MSRs lie outside the permissions map, the legacy ones do not",
    ),
    mask(0x8000_0008, 0, 1, 1 << 3, "INVLPGB: a guest may not invalidate other CPUs' TLBs by itself"),
    mask(0x8000_001f, 0, 0, u32::MAX, "memory encryption: a frame under two keys would have two contents"),
];

/// Leaf with the physical address width in EAX bits 0-7.
pub const LEAF_ADDRESS_SIZE: u32 = 0x8000_0008;
/// Leaf with the SVM features.
pub const LEAF_SVM: u32 = 0x8000_000a;
/// SVM leaf, EDX: nested paging.
pub const SVM_NESTED_PAGING: u32 = 1 << 0;
/// SVM leaf, EDX: next RIP is saved on exit.
pub const SVM_NRIPS: u32 = 1 << 3;
/// Leaf 80000001h, ECX: SVM.
pub const EXT_SVM: u32 = 1 << 2;
