//! Interrupts that start or stop a CPU: sent by nobody but SecVisor
//!
//! INIT and start-up commands are emulated, so that no CPU ever runs outside. What else could make an APIC deliver an INIT
//! is refused: local vectors and the I/O APIC's entries of that delivery mode. APM 2, chapter 16; Intel 82093AA.

/// Delivery modes, in bits 8-10 of commands, local vectors and redirection entries (APM 2, 16.4.1).
mod mode {
    pub const SMI: u32 = 2;
    pub const INIT: u32 = 5;
    pub const STARTUP: u32 = 6;
}

/// Which CPUs a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The one with this APIC identifier.
    Id(u32),
    /// All but the sender.
    Others,
}

/// What is to become of an interrupt command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The APIC may send it.
    Send,
    /// Without effect on any processor of today: the end of an INIT.
    Ignore,
    /// These CPUs wait for a start-up from now on.
    Init(To),
    /// Those of these CPUs that wait start in real mode at this page.
    Startup(To, u8),
    /// It is not sent.
    Refuse,
}

/// Bits of a command that mean something: vector, mode, logical destination, level, trigger, shorthand, destination.
const COMMAND: u64 = 0xffff_ffff_000c_cfff;
const LOGICAL: u64 = 1 << 11;
const ASSERT: u64 = 1 << 14;
const LEVEL_TRIGGERED: u64 = 1 << 15;

/// Decides a write of the interrupt command register; the destination is in bits 32-63 as in x2APIC mode.
pub fn command(value: u64) -> Command {
    let to = match value >> 18 & 3 {
        0 if value & LOGICAL == 0 => Some(To::Id((value >> 32) as u32)),
        3 => Some(To::Others),
        _ => None,
    };
    match ((value >> 8 & 7) as u32, to) {
        _ if value & !(COMMAND | 1 << 12) != 0 => Command::Refuse,
        (mode::INIT, _) if value & (ASSERT | LEVEL_TRIGGERED) == LEVEL_TRIGGERED => Command::Ignore,
        (mode::INIT, Some(to)) => Command::Init(to),
        (mode::STARTUP, Some(to)) => Command::Startup(to, value as u8),
        (mode::SMI | mode::INIT | mode::STARTUP, _) => Command::Refuse,
        _ => Command::Send,
    }
}

/// Whether a register of the APIC but the command may be written: `offset` in the APIC's page (APM 2, table 16-2).
pub fn register(offset: u32, value: u32) -> bool {
    match offset {
        // Task priority, end of interrupt, logical destination and its format, spurious vector, error status; the command's
        // destination; initial count and divider of the timer.
        0x80 | 0xb0 | 0xd0 | 0xe0 | 0xf0 | 0x280 | 0x310 | 0x380 | 0x3e0 => true,
        // Local vectors, the extended ones included.
        0x2f0 | 0x320 | 0x330 | 0x340 | 0x350 | 0x360 | 0x370 | 0x500 | 0x510 | 0x520 | 0x530 => {
            value >> 8 & 7 != mode::INIT
        }
        // The identifier (20h, and 410h which says how long it is): commands of SecVisor's own go by it. What is reserved
        // before it takes the messages that devices send as interrupts.
        _ => false,
    }
}

/// Addresses that are interrupt messages when a device writes them (APM 2, 16.11): not for CPUs.
pub const MESSAGES: core::ops::Range<u64> = 0xfee0_0000..0xfef0_0000;

/// Whether a register of an I/O APIC may be written: `offset` in its page, what its index register names. Other offsets
/// may be the same registers once more.
pub fn io_register(offset: u32, index: u8, value: u32) -> bool {
    match offset {
        // Index; end of interrupt.
        0 | 0x40 => true,
        // Data (82093AA, 3.2).
        0x10 => index < 0x10 || index & 1 != 0 || value >> 8 & 7 != mode::INIT,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_sends() {
        // A reschedule, to one CPU; an NMI to all others; INIT, its end, and a start-up (arch/x86/kernel/smpboot.c).
        assert_eq!(command(1 << 32 | 0xfd), Command::Send);
        assert_eq!(command(0xc_0400), Command::Send);
        assert_eq!(command(1 << 32 | 0xc500), Command::Init(To::Id(1)));
        assert_eq!(command(1 << 32 | 0x8500), Command::Ignore);
        assert_eq!(command(1 << 32 | 0x0500), Command::Init(To::Id(1)), "by edge");
        assert_eq!(command(1 << 32 | 0x10fd), Command::Send, "as it was read back, still on its way");
        assert_eq!(command(3 << 32 | 0x69f), Command::Startup(To::Id(3), 0x9f));
    }

    #[test]
    fn nothing_else_starts_or_stops_a_cpu() {
        assert_eq!(command(0xc_4500), Command::Init(To::Others));
        assert_eq!(command(0x4_4500), Command::Refuse, "INIT to itself");
        assert_eq!(command(0x8_4500), Command::Refuse, "to all");
        assert_eq!(command(1 << 32 | 0x4d00), Command::Refuse, "by logical destination");
        assert_eq!(command(1 << 32 | 0x4e9f), Command::Refuse);
        assert_eq!(command(1 << 32 | 0x4200), Command::Refuse, "SMI");
        assert_eq!(command(1 << 20), Command::Refuse, "reserved bits");
    }

    #[test]
    fn no_vector_is_init() {
        assert!(register(0x350, 0x700) && register(0x360, 0x400) && register(0xb0, 0) && register(0x380, 0x500));
        assert!(!register(0x350, 0x500) && !register(0x320, 0x1_0500) && !register(0x20, 0) && !register(0x410, 0));
        assert!(!register(0, 0) && !register(0x10, 0));
        // Between registers.
        assert!(!register(0x301, 0) && !register(0xb4, 0));
        let data = |index, value| io_register(0x10, index, value);
        assert!(data(0x10, 0x1_0000) && data(0x11, 0x500) && data(0, 0x500) && io_register(0, 0x10, 0x500));
        assert!(!data(0x10, 0x500) && !data(0x3e, 0x1_0500));
        assert!(!io_register(0x110, 0, 0) && !io_register(0x100, 0, 0) && !io_register(0x11, 0, 0));
    }
}
