//! Which I/O ports the guest may write, and what
//!
//! Three things behind ports could undo the protection: sleep (resume would run outside SecVisor), the host bridge's
//! configuration (it decides what is RAM), and a reset of the CPU alone. The report's UART is the hypervisor's own affair.

/// Registers of the machine that are known at launch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports {
    /// ACPI PM1a and PM1b control, 0 if there is none (ACPI 6.5, 4.8.3.2.1).
    pub pm1_control: [u16; 2],
    /// Their sleep types for S5, soft off; none if unknown.
    pub soft_off: Option<[u8; 2]>,
    /// What was last written to CONFIG_ADDRESS.
    config_address: u32,
    /// What was last written to the index port of AMD's power management registers.
    fch_index: u8,
}

/// What is to become of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortWrite {
    /// It is made.
    Pass,
    /// It comes to nothing: Linux does it as a matter of course.
    Ignore,
    /// It comes to nothing, and is reported if it would have changed what is there.
    Keep,
    /// It comes to nothing, and is reported.
    Refuse,
    /// The whole machine is reset, SecVisor included.
    Reset,
}

/// PCI configuration address (PCI local bus 3.0, 3.2.2.3.2).
const CONFIG_ADDRESS: u16 = 0xcf8;
/// PCI configuration data, 4 ports.
const CONFIG_DATA: u16 = 0xcfc;
/// Length of the part of a function's configuration that is the same for all.
const HEADER: u32 = 0x40;
/// Reset control of PC chipsets: bit 1 the whole system, bit 2 now.
const RESET_CONTROL: u16 = 0xcf9;
/// Intel's LPC bridge at 0:1f.0, and where in its configuration the base and the switch of its power management block
/// are (ICH9 datasheet, 13.1.13 and 13.1.14).
const LPC_BRIDGE: u16 = 0x1f << 3;
const LPC_PM_BASE: core::ops::Range<u32> = 0x40..0x48;
/// AMD's power management registers by index and data, and those that place the ACPI blocks (AcpiPmEvtBlk to
/// AcpiSmiCmd; FCH register reference).
const FCH_PM_INDEX: u16 = 0xcd6;
const FCH_PM_DATA: u16 = 0xcd7;
const FCH_SLEEP: core::ops::Range<u8> = 0x60..0x70;
/// System control port A: bit 0 resets the CPU.
const SYSTEM_CONTROL: u16 = 0x92;
/// Keyboard controller command; F0h to FEh with bit 0 clear pulse the CPU's reset line.
const KEYBOARD_COMMAND: u16 = 0x64;
/// PM1 control: sleep type in bits 10-12, enter it.
const SLEEP_ENABLE: u32 = 1 << 13;

impl Ports {
    /// The ports that must exit, each first and last.
    pub fn watched(&self) -> impl Iterator<Item = (u16, u16)> {
        let fixed = [
            (SYSTEM_CONTROL, SYSTEM_CONTROL),
            (KEYBOARD_COMMAND, KEYBOARD_COMMAND),
            (CONFIG_ADDRESS, 0xcff),
            (FCH_PM_INDEX, FCH_PM_DATA),
        ];
        fixed.into_iter().chain(self.pm1_control.into_iter().filter(|p| *p != 0).map(|p| (p, p + 1)))
    }

    /// Whether CONFIG_ADDRESS names a register that moves the sleep registers elsewhere.
    fn moves_sleep(&self) -> bool {
        let (function, offset) = ((self.config_address >> 8) as u16, self.config_address & 0xff);
        function == LPC_BRIDGE && LPC_PM_BASE.contains(&offset)
    }

    /// The index register by which a write to `port` finds what it writes, its size in bytes and what was last written to
    /// it. What is decided here was decided by that; the register itself may be another on every CPU.
    pub fn index(&self, port: u16) -> Option<(u16, u32, u32)> {
        match port {
            CONFIG_DATA..=0xcff => Some((CONFIG_ADDRESS, 4, self.config_address)),
            FCH_PM_DATA => Some((FCH_PM_INDEX, 1, self.fch_index as u32)),
            _ => None,
        }
    }

    /// Decides a write of `size` bytes.
    pub fn write(&mut self, port: u16, size: u32, value: u32) -> PortWrite {
        for (register, soft_off) in self.pm1_control.into_iter().zip(self.soft_off.unwrap_or([0xff; 2])) {
            let end = port as u32 + size;
            if register == 0 || end <= register as u32 || port > register + 1 {
                continue;
            }
            let control = match (port == register, size) {
                (true, 1..=2) => value,
                (false, 1) if port == register + 1 => value << 8,
                _ => return PortWrite::Refuse,
            };
            let sleeps = control & SLEEP_ENABLE != 0 && size as u16 + port > register + 1;
            let other = sleeps && (control >> 10 & 7) as u8 != soft_off;
            return if other { PortWrite::Refuse } else { PortWrite::Pass };
        }
        match (port, size) {
            (CONFIG_ADDRESS, 4) => {
                self.config_address = value;
                PortWrite::Pass
            }
            (RESET_CONTROL, 1) if value & 4 != 0 => PortWrite::Reset,
            (RESET_CONTROL, 1) => PortWrite::Pass,
            (CONFIG_DATA..=0xcff, _) if self.moves_sleep() => PortWrite::Keep,
            (FCH_PM_DATA, 1) if FCH_SLEEP.contains(&self.fch_index) => PortWrite::Keep,
            (FCH_PM_DATA, 1) => PortWrite::Pass,
            (FCH_PM_INDEX, 1) => {
                self.fch_index = value as u8;
                PortWrite::Pass
            }
            (CONFIG_DATA..=0xcff, _) if host_bridge((self.config_address >> 8) as u16) => {
                // Linux sizes the base address registers of every function; those of a bridge it leaves alone.
                if self.config_address & 0xff < HEADER { PortWrite::Ignore } else { PortWrite::Keep }
            }
            (CONFIG_DATA..=0xcff, _) => PortWrite::Pass,
            (SYSTEM_CONTROL, 1) if value & 1 != 0 => PortWrite::Reset,
            (KEYBOARD_COMMAND, 1) if value & 0xf1 == 0xf0 => PortWrite::Reset,
            (SYSTEM_CONTROL | KEYBOARD_COMMAND, 1) => PortWrite::Pass,
            // How Linux asks for this way of configuration (arch/x86/pci/direct.c, pci_check_type1).
            (0xcfb, 1) => PortWrite::Ignore,
            // Wider or straddling accesses to any of these are nobody's habit.
            _ => PortWrite::Refuse,
        }
    }
}

/// Whether a function (bus in bits 8-15, device 3-7, function 0-2) decides how physical addresses are decoded: the host
/// bridge, and on AMD processors the nodes' own functions from device 18h on (DRAM and MMIO routing), of which the
/// first of a node is a host bridge too. Devices 1Eh and 1Fh belong to chipsets.
pub fn host_bridge(function: u16) -> bool {
    let (bus, device) = (function >> 8, function >> 3 & 0x1f);
    function == 0 || bus == 0 && (0x18..=0x1d).contains(&device)
}

/// Whether a function's configuration is held where it is mapped to memory: that of the host bridges, and of the bridge
/// that places the sleep registers.
pub fn held_in_memory(function: u16) -> bool {
    host_bridge(function) || function == LPC_BRIDGE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Ports {
        Ports { pm1_control: [0x604, 0], soft_off: Some([0, 0]), ..Ports::default() }
    }

    #[test]
    fn sleep_but_soft_off_is_refused() {
        let mut p = ports();
        assert_eq!(p.write(0x604, 2, 1 << 13), PortWrite::Pass);
        assert_eq!(p.write(0x604, 2, 1 << 13 | 1 << 10), PortWrite::Refuse);
        assert_eq!(p.write(0x605, 1, 1 << 5 | 1 << 2), PortWrite::Refuse);
        assert_eq!(p.write(0x605, 1, 1 << 5), PortWrite::Pass);
        assert_eq!(p.write(0x604, 2, 1 << 10), PortWrite::Pass);
        assert_eq!(p.write(0x603, 4, 0), PortWrite::Refuse);
        assert_eq!(Ports { soft_off: None, ..p }.write(0x604, 2, 1 << 13), PortWrite::Refuse);
    }

    #[test]
    fn the_host_bridge_is_read_only() {
        let mut p = ports();
        assert_eq!(p.write(0xcf8, 4, 0x8000_0090), PortWrite::Pass);
        assert_eq!(p.write(0xcfc, 1, 0x33), PortWrite::Keep);
        assert_eq!(p.write(0xcf8, 4, 0x8000_0010), PortWrite::Pass);
        assert_eq!(p.write(0xcfc, 4, u32::MAX), PortWrite::Ignore);
        assert_eq!(p.write(0xcf8, 4, 0x8000_0000 | 0x18 << 11 | 1 << 8 | 0x40), PortWrite::Pass);
        assert_eq!(p.write(0xcfc, 4, 0x33), PortWrite::Keep);
        assert_eq!(p.write(0xcf8, 4, 0x8000_0000 | 0x1f << 11 | 0x60), PortWrite::Pass);
        assert_eq!(p.write(0xcff, 1, 0x33), PortWrite::Pass);
    }

    #[test]
    fn data_goes_by_the_index_that_was_looked_at() {
        let mut p = ports();
        p.write(0xcf8, 4, 0x8000_0090);
        p.write(0xcd6, 1, 0x62);
        assert_eq!([0xcfc, 0xcfe].map(|port| p.index(port)), [Some((0xcf8, 4, 0x8000_0090)); 2]);
        assert_eq!(p.index(0xcd7), Some((0xcd6, 1, 0x62)));
        assert_eq!([0xcf8, 0xcf9, 0xcd6, 0x80].map(|port| p.index(port)), [None; 4]);
    }

    #[test]
    fn the_sleep_registers_do_not_move() {
        let mut p = ports();
        assert_eq!(p.write(0xcf8, 4, 0x8000_0000 | 0x1f << 11 | 0x40), PortWrite::Pass);
        assert_eq!(p.write(0xcfc, 4, 0xc01), PortWrite::Keep);
        assert_eq!(p.write(0xcd6, 1, 0x62), PortWrite::Pass);
        assert_eq!(p.write(0xcd7, 1, 0), PortWrite::Keep);
        assert_eq!(p.write(0xcd6, 1, 0x20), PortWrite::Pass);
        assert_eq!(p.write(0xcd7, 1, 0), PortWrite::Pass);
    }

    #[test]
    fn what_exits_is_what_is_decided() {
        let fixed = [(0x92, 0x92), (0x64, 0x64), (0xcf8, 0xcff), (0xcd6, 0xcd7)];
        assert!(Ports::default().watched().eq(fixed));
        assert!(ports().watched().eq(fixed.into_iter().chain([(0x604, 0x605)])));
    }

    #[test]
    fn each_sleep_register_has_its_own_soft_off() {
        // Side by side, in either order, and apart.
        for [a, b] in [[0x604, 0x606], [0x606, 0x604], [0x604, 0x700]] {
            let mut p = Ports { pm1_control: [a, b], soft_off: Some([1, 5]), ..Ports::default() };
            for (register, own) in [(a, 1), (b, 5)] {
                for kind in 0..8 {
                    let right = if kind == own { PortWrite::Pass } else { PortWrite::Refuse };
                    assert_eq!(p.write(register, 2, 1 << 13 | kind << 10), right, "{register:#x} {kind}");
                    assert_eq!(p.write(register + 1, 1, 1 << 5 | kind << 2), right, "{register:#x} {kind}");
                    assert_eq!(p.write(register, 2, kind << 10), PortWrite::Pass);
                    // What is behind a byte is not written.
                    assert_eq!(p.write(register, 1, 1 << 13 | kind << 10), PortWrite::Pass);
                }
                assert_eq!(p.write(register + 1, 2, 0), PortWrite::Refuse);
                assert_eq!(p.write(register, 4, 0), PortWrite::Refuse);
            }
        }
    }

    #[test]
    fn configuration_is_decided_by_function_and_register() {
        let mut p = ports();
        for function in 0..0x300u32 {
            for offset in (0..0x100).step_by(4) {
                let device = function >> 3;
                let bridge = function == 0 || (0x18..0x1e).contains(&device);
                let expected = match offset {
                    0x40 | 0x44 if function == 0xf8 => PortWrite::Keep,
                    0..0x40 if bridge => PortWrite::Ignore,
                    _ if bridge => PortWrite::Keep,
                    _ => PortWrite::Pass,
                };
                assert_eq!(p.write(0xcf8, 4, 1 << 31 | function << 8 | offset), PortWrite::Pass);
                for (port, size) in [(0xcfc, 4), (0xcfc, 1), (0xcfe, 2), (0xcff, 1)] {
                    assert_eq!(p.write(port, size, 0), expected, "{function:#x} {offset:#x}");
                }
            }
            assert_eq!(host_bridge(function as u16), function == 0 || (0xc0..0xf0).contains(&function));
            assert_eq!(held_in_memory(function as u16), host_bridge(function as u16) || function == 0xf8);
        }
        // Extended configuration space, where the processor lets CF8h name it by bits 24 to 27: held whole.
        for function in [0, 0xc0, 0xe8] {
            for offset in (0x100..0x1000).step_by(4) {
                let address = 1 << 31 | (offset & 0xf00) << 16 | function << 8 | offset & 0xff;
                assert_eq!(p.write(0xcf8, 4, address), PortWrite::Pass);
                assert_ne!(p.write(0xcfc, 4, 0), PortWrite::Pass, "{function:#x} {offset:#x}");
            }
        }
        for (port, size) in [(0xcf8, 1), (0xcf8, 2), (0xcfa, 2), (0xcf9, 2), (0xcf7, 2), (0xcfb, 2)] {
            assert_eq!(p.write(port, size, 0), PortWrite::Refuse, "{port:#x} {size}");
        }
        assert_eq!(p.write(0xcfb, 1, 1), PortWrite::Ignore);
    }

    #[test]
    fn power_management_is_decided_by_index() {
        let mut p = ports();
        for index in 0..0x100u32 {
            assert_eq!(p.write(0xcd6, 1, index), PortWrite::Pass);
            let expected = if (0x60..0x70).contains(&index) { PortWrite::Keep } else { PortWrite::Pass };
            assert_eq!(p.write(0xcd7, 1, 0), expected, "{index:#x}");
        }
        assert_eq!(p.write(0xcd6, 2, 0), PortWrite::Refuse);
        assert_eq!(p.write(0xcd7, 2, 0), PortWrite::Refuse);
    }

    #[test]
    fn every_value_of_the_reset_ports() {
        let mut p = ports();
        let decided = |resets| if resets { PortWrite::Reset } else { PortWrite::Pass };
        for value in 0..0x100 {
            assert_eq!(p.write(0xcf9, 1, value), decided(value & 4 != 0), "{value:#x}");
            assert_eq!(p.write(0x92, 1, value), decided(value % 2 == 1), "{value:#x}");
            assert_eq!(p.write(0x64, 1, value), decided(value >= 0xf0 && value % 2 == 0), "{value:#x}");
        }
        assert_eq!(p.write(0x92, 2, 0), PortWrite::Refuse);
        assert_eq!(p.write(0x64, 2, 0), PortWrite::Refuse);
    }

    #[test]
    fn a_cpu_is_never_reset_alone() {
        let mut p = ports();
        assert_eq!(p.write(0xcf9, 1, 4), PortWrite::Reset);
        assert_eq!(p.write(0xcf9, 1, 6), PortWrite::Reset);
        assert_eq!(p.write(0xcf9, 1, 2), PortWrite::Pass);
        assert_eq!(p.write(0x92, 1, 1), PortWrite::Reset);
        assert_eq!(p.write(0x92, 1, 2), PortWrite::Pass);
        assert_eq!(p.write(0x64, 1, 0xfe), PortWrite::Reset);
        assert_eq!(p.write(0x64, 1, 0xd4), PortWrite::Pass);
        assert_eq!(p.write(0xcf7, 4, 0), PortWrite::Refuse);
    }
}
