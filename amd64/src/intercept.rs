//! Intercept bits of the control area: APM 2, table B-1

/// Word at 00Ch.
pub mod misc1 {
    /// Physical interrupt.
    pub const INTR: u32 = 1 << 0;
    /// Non-maskable interrupt.
    pub const NMI: u32 = 1 << 1;
    /// Physical INIT.
    pub const INIT: u32 = 1 << 3;
    /// PUSHF.
    pub const PUSHF: u32 = 1 << 16;
    /// POPF.
    pub const POPF: u32 = 1 << 17;
    /// CPUID.
    pub const CPUID: u32 = 1 << 18;
    /// IRET.
    pub const IRET: u32 = 1 << 20;
    /// INT n.
    pub const INTN: u32 = 1 << 21;
    /// INVD.
    pub const INVD: u32 = 1 << 22;
    /// INVLPGA.
    pub const INVLPGA: u32 = 1 << 26;
    /// I/O ports, by the I/O permissions map.
    pub const IOIO: u32 = 1 << 27;
    /// MSRs, by the MSR permissions map.
    pub const MSR: u32 = 1 << 28;
    /// Task switch.
    pub const TASK_SWITCH: u32 = 1 << 29;
    /// Shutdown (triple fault).
    pub const SHUTDOWN: u32 = 1 << 31;
}

/// Word at 010h.
pub mod misc2 {
    /// VMRUN; must be set.
    pub const VMRUN: u32 = 1 << 0;
    /// VMMCALL.
    pub const VMMCALL: u32 = 1 << 1;
    /// VMLOAD.
    pub const VMLOAD: u32 = 1 << 2;
    /// VMSAVE.
    pub const VMSAVE: u32 = 1 << 3;
    /// STGI.
    pub const STGI: u32 = 1 << 4;
    /// CLGI.
    pub const CLGI: u32 = 1 << 5;
    /// SKINIT.
    pub const SKINIT: u32 = 1 << 6;
    /// ICEBP (INT1).
    pub const ICEBP: u32 = 1 << 8;
}
