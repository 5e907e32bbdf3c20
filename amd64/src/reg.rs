//! Control-register and flag bits: APM 2, 3.1

/// CR0: protected mode.
pub const CR0_PE: u64 = 1 << 0;
/// CR0: monitor coprocessor.
pub const CR0_MP: u64 = 1 << 1;
/// CR0: extension type, always 1.
pub const CR0_ET: u64 = 1 << 4;
/// CR0: numeric error.
pub const CR0_NE: u64 = 1 << 5;
/// CR0: write protect.
pub const CR0_WP: u64 = 1 << 16;
/// CR0: not write-through.
pub const CR0_NW: u64 = 1 << 29;
/// CR0: caches disabled.
pub const CR0_CD: u64 = 1 << 30;
/// CR0: paging.
pub const CR0_PG: u64 = 1 << 31;
/// CR4: physical address extension.
pub const CR4_PAE: u64 = 1 << 5;
/// CR4: 5-level paging.
pub const CR4_LA57: u64 = 1 << 12;
/// CR4: XSAVE enabled.
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4: protection keys enabled.
pub const CR4_PKE: u64 = 1 << 22;
/// EFER: SYSCALL and SYSRET.
pub const EFER_SCE: u64 = 1 << 0;
/// EFER: long mode enabled.
pub const EFER_LME: u64 = 1 << 8;
/// EFER: long mode active.
pub const EFER_LMA: u64 = 1 << 10;
/// EFER: no-execute enabled.
pub const EFER_NXE: u64 = 1 << 11;
/// EFER: SVM enabled.
pub const EFER_SVME: u64 = 1 << 12;
/// RFLAGS: always 1.
pub const RFLAGS_ONE: u64 = 1 << 1;
/// RFLAGS: trap after the next instruction.
pub const RFLAGS_TF: u64 = 1 << 8;
/// RFLAGS: resume, suppresses instruction breakpoints once.
pub const RFLAGS_RF: u64 = 1 << 16;
/// DR6: single step.
pub const DR6_BS: u64 = 1 << 14;
/// Segment attribute: 64-bit code (bit 53 of the descriptor).
pub const ATTRIB_LONG: u16 = 1 << 9;
/// Attributes SYSCALL gives CS in long mode: present, DPL 0, code, readable, accessed, L, G (APM 3, SYSCALL).
pub const SYSCALL_CS: u16 = 0xa9b;
/// Attributes SYSCALL gives SS: present, DPL 0, data, writable, accessed, B, G.
pub const SYSCALL_SS: u16 = 0xc93;
