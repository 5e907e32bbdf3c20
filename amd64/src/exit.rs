//! Exit codes and what they carry: APM 2, appendix C

/// Code of an intercepted #UD.
pub const INVALID_OPCODE: u64 = 0x46;
/// Code of a nested page fault.
pub const NESTED_PAGE_FAULT: u64 = 0x400;

/// Why the guest exited. No catch-all over codes we ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// An exception of this vector (040h-05Fh).
    Exception(u8),
    /// Physical interrupt (060h).
    Interrupt,
    /// NMI (061h).
    Nmi,
    /// INIT (063h).
    Init,
    /// PUSHF or POPF (070h, 071h).
    Flags,
    /// CPUID (072h).
    Cpuid,
    /// IRET (074h).
    Iret,
    /// INT n (075h).
    SoftwareInterrupt,
    /// INVD (076h).
    Invd,
    /// I/O port (07Bh).
    Io,
    /// RDMSR or WRMSR (07Ch).
    Msr,
    /// Task switch (07Dh).
    TaskSwitch,
    /// Shutdown (07Fh).
    Shutdown,
    /// VMMCALL (081h).
    Vmmcall,
    /// An SVM instruction: INVLPGA (07Ah), VMRUN (080h), VMLOAD..SKINIT (082h-086h).
    SvmInstruction,
    /// ICEBP (088h).
    Icebp,
    /// Nested page fault (400h).
    NestedPageFault,
    /// VMRUN refused the guest's state (-1; QEMU gives 32 bits of it).
    Invalid,
    /// A code we did not ask for.
    Unknown(u64),
}

impl Exit {
    /// Decodes an exit code.
    pub fn new(code: u64) -> Self {
        match code {
            0x40..=0x5f => Self::Exception(code as u8 - 0x40),
            0x60 => Self::Interrupt,
            0x61 => Self::Nmi,
            0x63 => Self::Init,
            0x70 | 0x71 => Self::Flags,
            0x72 => Self::Cpuid,
            0x74 => Self::Iret,
            0x75 => Self::SoftwareInterrupt,
            0x76 => Self::Invd,
            0x7b => Self::Io,
            0x7c => Self::Msr,
            0x7d => Self::TaskSwitch,
            0x7f => Self::Shutdown,
            0x81 => Self::Vmmcall,
            0x7a | 0x80 | 0x82..=0x86 => Self::SvmInstruction,
            0x88 => Self::Icebp,
            0x400 => Self::NestedPageFault,
            u64::MAX | 0xffff_ffff => Self::Invalid,
            other => Self::Unknown(other),
        }
    }

    /// Index in [`REASONS`], for counting.
    pub fn index(self) -> usize {
        match self {
            Self::Exception(6) => 0,
            Self::Exception(14) => 1,
            Self::Exception(_) => 2,
            Self::Interrupt => 3,
            Self::Nmi => 4,
            Self::Cpuid => 5,
            Self::SoftwareInterrupt => 6,
            Self::Io => 7,
            Self::Msr => 8,
            Self::Vmmcall => 9,
            Self::NestedPageFault => 10,
            _ => 11,
        }
    }
}

/// Names of what is counted.
pub const REASONS: [&str; 12] = [
    "syscall",
    "page-fault",
    "exception",
    "interrupt",
    "nmi",
    "cpuid",
    "int-n",
    "io",
    "msr",
    "hypercall",
    "nested-fault",
    "other",
];

/// EXITINFO1 of a nested page fault (APM 2, 15.25.6).
#[derive(Clone, Copy, Debug)]
pub struct NestedFault(pub u64);

impl NestedFault {
    /// The nested translation was present.
    pub fn present(self) -> bool {
        self.0 & 1 != 0
    }
    /// A write, a page-table walk's update included.
    pub fn write(self) -> bool {
        self.0 & 2 != 0
    }
    /// An instruction fetch.
    pub fn fetch(self) -> bool {
        self.0 & 1 << 4 != 0
    }
    /// An instruction fetch, of the page itself and not of the tables that lead to it.
    #[inline]
    pub fn fetch_of_page(self) -> bool {
        self.0 & (1 << 33 | 1 << 4) == 1 << 4
    }
    /// While the guest's own tables were walked.
    pub fn table_walk(self) -> bool {
        self.0 & 1 << 33 != 0
    }
}

/// EXITINFO1 of an I/O intercept (APM 2, 15.10.2).
#[derive(Clone, Copy, Debug)]
pub struct IoAccess(pub u64);

impl IoAccess {
    /// IN rather than OUT.
    pub fn read(self) -> bool {
        self.0 & 1 != 0
    }
    /// INS or OUTS.
    pub fn string(self) -> bool {
        self.0 & 1 << 2 != 0
    }
    /// Size in bytes: 1, 2 or 4.
    pub fn size(self) -> u32 {
        (self.0 >> 4 & 7) as u32
    }
    /// Port number.
    pub fn port(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        assert_eq!(Exit::new(0x4e), Exit::Exception(14));
        assert_eq!(Exit::new(0x400), Exit::NestedPageFault);
        assert_eq!(Exit::new(0x86), Exit::SvmInstruction);
        assert_eq!(Exit::new(0x81), Exit::Vmmcall);
        assert_eq!(Exit::new(u64::MAX), Exit::Invalid);
        assert_eq!(Exit::new(0x77), Exit::Unknown(0x77));
        assert_eq!(REASONS[Exit::new(0x46).index()], "syscall");
        assert_eq!(REASONS[Exit::NestedPageFault.index()], "nested-fault");
        assert_eq!(REASONS[Exit::Invalid.index()], "other");
    }

    #[test]
    fn io_access() {
        let access = IoAccess(0x2f8 << 16 | 1 << 4 | 1);
        assert!(access.read() && !access.string());
        assert_eq!((access.port(), access.size()), (0x2f8, 1));
    }
}
