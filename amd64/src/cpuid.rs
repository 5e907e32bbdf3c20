//! What the guest is not told about the processor: APM 3, appendix E

/// A feature bit that is cleared until the first user-mode instruction, and why.
pub struct Masked {
    /// CPUID leaf.
    pub leaf: u32,
    /// Register: 0 EAX, 1 EBX, 2 ECX, 3 EDX.
    pub register: usize,
    /// Bits.
    pub bits: u32,
    /// Why.
    pub reason: &'static str,
}

/// All of them. Only leaves with subleaf 0 or none.
pub const MASKED: [Masked; 4] = [
    Masked {
        leaf: 0x1,
        register: 2,
        bits: 1 << 31,
        reason: "hypervisor present: paravirtual kernels patch in functions the approval does not list",
    },
    Masked { leaf: 0x8000_0001, register: 2, bits: 1 << 2, reason: "SVM: the hypervisor below owns it" },
    Masked { leaf: 0x8000_0001, register: 2, bits: 1 << 12, reason: "SKINIT: would start code outside SecVisor" },
    Masked {
        leaf: 0x8000_001f,
        register: 0,
        bits: u32::MAX,
        reason: "memory encryption: the same frame under two keys would be two contents",
    },
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
/// Leaf 80000001h, EDX: no-execute.
pub const EXT_NX: u32 = 1 << 20;
/// Leaf 80000001h, EDX: 1 GiB pages.
pub const EXT_PAGE_1G: u32 = 1 << 26;
