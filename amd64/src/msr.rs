//! Model-specific registers: APM 2, appendix A

/// Local APIC base.
pub const APIC_BASE: u32 = 0x1b;
/// Legacy SYSENTER code segment.
pub const SYSENTER_CS: u32 = 0x174;
/// What MTRRs there are (APM 2, 7.7.3).
pub const MTRR_CAP: u32 = 0xfe;
/// Base of the first variable range; its mask follows, then the next.
pub const MTRR_BASE_0: u32 = 0x200;
/// Memory type of what no range covers, and the switches.
pub const MTRR_DEF_TYPE: u32 = 0x2ff;
/// Debug control.
pub const DEBUG_CTL: u32 = 0x1d9;
/// DEBUG_CTL: the trap flag traps on branches only (APM 2, 13.1.1).
pub const DEBUG_CTL_BTF: u64 = 1 << 1;
/// Extended features.
pub const EFER: u32 = 0xc000_0080;
/// SYSCALL segments.
pub const STAR: u32 = 0xc000_0081;
/// 64-bit SYSCALL target.
pub const LSTAR: u32 = 0xc000_0082;
/// Compatibility-mode SYSCALL target.
pub const CSTAR: u32 = 0xc000_0083;
/// SYSCALL flag mask.
pub const SFMASK: u32 = 0xc000_0084;
/// System configuration.
pub const SYSCFG: u32 = 0xc001_0010;
/// SYSCFG: memory encryption is enabled (APM 2, 7.10.1).
pub const SYSCFG_MEM_ENCRYPT: u64 = 1 << 23;
/// SVM: locked and disabled by firmware?
pub const VM_CR: u32 = 0xc001_0114;
/// SVM: host save area.
pub const VM_HSAVE_PA: u32 = 0xc001_0117;
/// VM_CR: EFER.SVME is locked (APM 2, 15.30.1).
pub const VM_CR_LOCK: u64 = 1 << 3;
/// VM_CR: SVM is disabled.
pub const VM_CR_SVMDIS: u64 = 1 << 4;
/// INIT becomes an exception (#SX) instead of starting the processor over.
pub const VM_CR_R_INIT: u64 = 1 << 1;

/// Bits of an MSR in the permissions map: read, then write (APM 2, 15.11). `None` outside the three ranges.
pub fn permission_bit(msr: u32) -> Option<usize> {
    let (base, index) = match msr {
        0..=0x1fff => (0x000, msr),
        0xc000_0000..=0xc000_1fff => (0x800, msr - 0xc000_0000),
        0xc001_0000..=0xc001_1fff => (0x1000, msr - 0xc001_0000),
        _ => return None,
    };
    Some(base * 8 + index as usize * 2)
}

#[cfg(test)]
mod tests {
    #[test]
    fn permission_bits() {
        assert_eq!(super::permission_bit(0x1b), Some(0x36));
        assert_eq!(super::permission_bit(super::EFER), Some(0x800 * 8 + 0x100));
        assert_eq!(super::permission_bit(super::VM_CR), Some(0x1000 * 8 + 0x228));
        assert_eq!(super::permission_bit(0x4000_0000), None);
    }
}
