//! Which model-specific registers the guest may write
//!
//! By allow-list: a register that can redirect entries, execution or the decoding of physical addresses, or that is not
//! known, is refused. Numbers and bits: AMD64 Architecture Programmer's Manual volume 2, appendix A, and the Processor
//! Programming References; the comments say who writes them in Linux.

use crate::apic;

/// What is to become of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrWrite {
    /// It may be executed.
    Allow,
    /// It comes to nothing, without a fault: Linux does it as a matter of course.
    Ignore,
    /// #GP, and a violation.
    Refuse,
}

/// Registers that may be written freely, so that they need no exit: first and last.
pub const FREE: [(u32, u32); 22] = [
    (0x10, 0x10),               // TSC
    (0x3b, 0x3b),               // TSC_ADJUST
    (0x48, 0x49),               // SPEC_CTRL, PRED_CMD
    (0xe7, 0xe8),               // MPERF, APERF
    (0x10b, 0x10b),             // FLUSH_CMD
    (0x175, 0x176),             // SYSENTER_ESP, SYSENTER_EIP: of no effect while SYSENTER_CS is 0
    (0x179, 0x17b),             // MCG_CAP, MCG_STATUS, MCG_CTL
    (0x277, 0x277),             // PAT, the guest's own under nested paging
    (0x400, 0x47f),             // machine-check banks
    (0x6e0, 0x6e0),             // TSC_DEADLINE
    (0x800, 0x82e),             // x2APIC but for the local vectors and the interrupt command register
    (0x838, 0x83f),             // as above
    (0xda0, 0xda0),             // XSS
    (0xc000_0100, 0xc000_0103), // FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX
    (0xc000_0300, 0xc000_0303), // performance counters, global
    (0xc000_0408, 0xc000_040f), // machine-check thresholds
    (0xc001_0000, 0xc001_0007), // performance counters, legacy
    (0xc001_0062, 0xc001_0062), // P-state control
    (0xc001_0200, 0xc001_024f), // performance counters, core and L3
    (0xc001_02b1, 0xc001_02b3), // CPPC
    (0xc001_1019, 0xc001_101b), // breakpoint address masks
    (0xc001_1030, 0xc001_1039), // instruction-based sampling
];

/// Registers of which only some bits may change: number and those bits.
const BITS: [(u32, u64); 8] = [
    // APIC_BASE: x2APIC mode, not the address: it must not come to lie over RAM. Nor may it be switched off: SecVisor
    // itself reaches other CPUs through it.
    (0x1b, 1 << 10),
    // MCA_INTR_CFG: which extended local vector a deferred error raises, and whether it does (arch/x86/kernel/cpu/mce/amd.c).
    (0xc000_0410, 0xf6),
    // HWCR: McStatusWrEn, TscFreqSel, CpbDis, IRPerfEn (arch/x86/kernel/cpu/amd.c).
    (0xc001_0015, 1 << 18 | 1 << 24 | 1 << 25 | 1 << 30),
    // NB_CFG: CF8h reaches extended configuration space, too (arch/x86/pci/amd_bus.c). The rules for CFCh hold there as well.
    (0xc001_001f, 1 << 46),
    // LS_CFG: speculative store bypass disable, by family (arch/x86/kernel/cpu/amd.c, bsp_init_amd).
    (0xc001_1020, 1 << 10 | 1 << 33 | 1 << 54),
    // FP_CFG: the bit against stale quotients on Zen 1 (arch/x86/kernel/cpu/amd.c).
    (0xc001_1028, 1 << 9),
    // DE_CFG: serializing LFENCE, the Zenbleed bit (arch/x86/kernel/cpu/amd.c).
    (0xc001_1029, 1 << 1 | 1 << 9),
    // DE_CFG2: the bit against branch type confusion on Zen 2 (arch/x86/kernel/cpu/amd.c, init_spectral_chicken).
    (0xc001_10e3, 1 << 1),
];

/// Memory types: Linux switches them off and on again around setting the PAT (arch/x86/kernel/cpu/cacheinfo.c).
const MTRR_DEF_TYPE: u32 = 0x2ff;
/// Interrupt command register of the x2APIC. [`crate::apic::command`] decides it.
pub const X2APIC_ICR: u32 = 0x830;
/// Registers of the x2APIC: the offset in the APIC's page, divided by 16.
const X2APIC: u32 = 0x800;

/// Decides a write of a register that is not in [`FREE`] and that the hypervisor does not keep itself. `current` is
/// asked for registers that every processor with SVM has.
pub fn write(number: u32, value: u64, current: impl FnOnce() -> u64) -> MsrWrite {
    if let Some((_, bits)) = BITS.iter().find(|(n, _)| *n == number) {
        return if (value ^ current()) & !bits == 0 { MsrWrite::Allow } else { MsrWrite::Refuse };
    }
    match number {
        MTRR_DEF_TYPE => MsrWrite::Ignore,
        // Local vectors, and the extended ones that Linux sets for machine checks (arch/x86/kernel/apic/apic.c).
        0x82f..=0x837 | 0x850..=0x853
            if number != X2APIC_ICR && apic::register((number - X2APIC) << 4, value as u32) =>
        {
            MsrWrite::Allow
        }
        _ => MsrWrite::Refuse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_registers_are_refused() {
        for number in [0x0, 0x79, 0x200, 0x250, 0xc001_0010, 0xc001_0016, 0xc001_001a, 0xc001_0020, 0xc001_0058] {
            assert_eq!(write(number, 0, || 0), MsrWrite::Refuse, "{number:#x}");
        }
        for number in [0xc001_0111, 0xc001_0112, 0xc001_0113, 0xc001_1004, 0x1234] {
            assert_eq!(write(number, 0, || 0), MsrWrite::Refuse, "{number:#x}");
        }
    }

    #[test]
    fn only_harmless_bits_change() {
        let base = 0xfee0_0000 | 1 << 11 | 1 << 8;
        assert_eq!(write(0x1b, base | 1 << 10, || base), MsrWrite::Allow);
        assert_eq!(write(0x1b, base + 0x1000, || base), MsrWrite::Refuse);
        assert_eq!(write(0x1b, base & !(1 << 11), || base), MsrWrite::Refuse);
        assert_eq!(write(0xc001_0015, 1 << 30, || 0), MsrWrite::Allow);
        assert_eq!(write(0xc001_0015, 1, || 0), MsrWrite::Refuse);
        let known: [(u32, &[u32]); 8] = [
            (0x1b, &[10]),
            (0xc000_0410, &[1, 2, 4, 5, 6, 7]),
            (0xc001_0015, &[18, 24, 25, 30]),
            (0xc001_001f, &[46]),
            (0xc001_1020, &[10, 33, 54]),
            (0xc001_1028, &[9]),
            (0xc001_1029, &[1, 9]),
            (0xc001_10e3, &[1]),
        ];
        for (number, bits) in known {
            for bit in 0..64 {
                let allowed = if bits.contains(&bit) { MsrWrite::Allow } else { MsrWrite::Refuse };
                assert_eq!(write(number, 1 << bit, || 0), allowed, "{number:#x} bit {bit}");
            }
        }
    }

    #[test]
    fn memory_types_are_ignored() {
        for value in [0, 6, 0xc00, 0xc06] {
            assert_eq!(write(0x2ff, value, || 0), MsrWrite::Ignore);
        }
    }

    #[test]
    fn no_local_vector_is_init() {
        assert_eq!(write(0x835, 0x700, || 0), MsrWrite::Allow);
        assert_eq!(write(0x835, 5 << 8, || 0), MsrWrite::Refuse);
        for extended in 0x850..0x854 {
            assert_eq!(write(extended, 0x1_00f9, || 0), MsrWrite::Allow);
            assert_eq!(write(extended, 0x1_0500, || 0), MsrWrite::Refuse);
        }
        assert_eq!(write(0x84f, 0, || 0), MsrWrite::Refuse);
        assert_eq!(write(0x854, 0, || 0), MsrWrite::Refuse);
        assert_eq!(write(X2APIC_ICR, 0, || 0), MsrWrite::Refuse);
    }

    #[test]
    fn free_registers_hold_no_dangerous_one() {
        let free = |n: u32| FREE.iter().any(|(first, last)| (*first..=*last).contains(&n));
        let dangerous =
            [0x1b, 0x174, 0x200, 0x2ff, 0x830, 0xc000_0080, 0xc000_0082, 0xc001_0010, 0xc001_0015, 0xc001_0114];
        assert!(!dangerous.into_iter().any(free));
    }
}
