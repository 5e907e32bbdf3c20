//! What the guest did that it must not
use crate::Frame;

/// The rule that was broken. The name is what the report prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Kernel-mode fetch from a frame that holds no approved code.
    UnapprovedCode,
    /// Approved bytes, but not where they belong or not as part of a consistently placed module.
    WrongPlace,
    /// A page that was verified before holds other bytes; they were put back.
    Tampered,
    /// Kernel-mode fetch from memory that is not RAM.
    DeviceFetch,
    /// The guest touched the hypervisor's memory.
    HypervisorMemory,
    /// A page-table walk led through an approved or hypervisor frame.
    PageTable,
    /// User-mode fetch from an approved frame.
    UserFetch,
    /// A control or model-specific register that the guest must not change.
    Register,
    /// An I/O port the guest must not write so.
    Port,
    /// A command that would start or stop a CPU, or a vector that could.
    Apic,
    /// Device memory that is held, because it decides what is RAM.
    HeldDevice,
    /// An instruction the guest must not execute.
    Instruction,
    /// The nested tables have no room to set this frame apart.
    OutOfTables,
}

impl Rule {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnapprovedCode => "unapproved-code",
            Self::WrongPlace => "wrong-place",
            Self::Tampered => "tampered",
            Self::DeviceFetch => "device-fetch",
            Self::HypervisorMemory => "hypervisor-memory",
            Self::PageTable => "page-table",
            Self::UserFetch => "user-fetch",
            Self::Register => "register",
            Self::Port => "port",
            Self::Apic => "apic",
            Self::HeldDevice => "held-device",
            Self::Instruction => "instruction",
            Self::OutOfTables => "out-of-tables",
        }
    }
}

/// A broken rule, with what is known about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// The frame concerned.
    pub frame: Frame,
    /// The approval's page that comes closest, if any, and the offset of the first byte that differs from it.
    pub nearest: Option<(u32, u16)>,
}

#[cfg(test)]
mod tests {
    use super::Rule::*;

    #[test]
    fn names_say_what_the_rules_are_called() {
        let all = [
            (UnapprovedCode, "unapproved-code"),
            (WrongPlace, "wrong-place"),
            (Tampered, "tampered"),
            (DeviceFetch, "device-fetch"),
            (HypervisorMemory, "hypervisor-memory"),
            (PageTable, "page-table"),
            (UserFetch, "user-fetch"),
            (Register, "register"),
            (Port, "port"),
            (Apic, "apic"),
            (HeldDevice, "held-device"),
            (Instruction, "instruction"),
            (OutOfTables, "out-of-tables"),
        ];
        assert!(all.iter().all(|(rule, name)| rule.name() == *name));
    }
}
