//! What can be left out, one at a time: each must bring an attack to light
use secvisor_rules::check::Check;

/// Part of what the hardware layer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Launch marks device frames as such.
    DeviceMarked,
    /// Launch marks the hypervisor's frames as such.
    HypervisorMarked,
    /// The hypervisor's frames are absent.
    HypervisorAbsent,
    /// Data is not executable in the kernel view.
    DataNoExecute,
    /// A frame that is frozen or executable is not writable in the user view either.
    BothViews,
    /// Rights belong to frames, not to virtual pages: no virtual page keeps the right to execute when it is remapped.
    RightsByFrame,
    /// Rights belong to frames: freezing takes the right to write from every alias.
    EveryAlias,
    /// A frame's changed rights flush the TLB.
    FlushRights,
    /// That flush reaches every ASID.
    FlushAllAsids,
    /// That flush reaches every CPU.
    FlushAllCpus,
    /// Closing a window flushes the TLB.
    FlushWindow,
    /// When ASIDs run out the TLB is flushed.
    FlushWrap,
    /// The user view gets an ASID of its own each time it is entered.
    FreshAsid,
    /// The first user-mode instruction is reported to the rules.
    FirstUser,
    /// A window is closed by a trap behind its instruction.
    WindowTrap,
    /// SYSCALL and SYSRET, which change the trap flag before it counts, are off in a window.
    WindowSyscall,
    /// No event is delivered into an open window.
    WindowEvent,
    /// A window for a segment load opens on data only.
    WindowData,
    /// What was written in a window is reported to the rules.
    WindowWrite,
    /// In a window absent memory is a frame of ones, not the hypervisor's.
    Scratch,
    /// The user view intercepts exceptions.
    Exceptions,
    /// The user view intercepts interrupts.
    Interrupts,
    /// The user view intercepts NMIs.
    Nmis,
    /// The user view intercepts INT n.
    SoftwareInterrupts,
    /// The user view intercepts INT1.
    Icebp,
    /// EFER.SCE is 0 in the user view.
    SyscallOff,
    /// SYSENTER_CS is 0.
    SysenterOff,
    /// The limit of the GDT is 0 in the user view.
    GdtHidden,
    /// The limit of the LDT is 0 in the user view.
    LdtHidden,
}

/// One thing that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// A check of the rules.
    Rule(Check),
    /// A part of the hardware layer.
    Part(Part),
    /// No device writes to memory behind SecVisor's back: an assumption, not a check, as long as no IOMMU is driven.
    QuietDevices,
}

macro_rules! list {
    ($($kind:ident: $($name:ident)*;)*) => { [$($(list!(@ $kind $name),)*)* Switch::QuietDevices] };
    (@ Rule $name:ident) => { Switch::Rule(Check::$name) };
    (@ Part $name:ident) => { Switch::Part(Part::$name) };
}

/// All of them.
pub const ALL: [Switch; 58] = list! {
    Part: RightsByFrame EveryAlias;
    Rule: Freeze Bytes Site Int3 Function Pinned Chosen BootOnly Straddler Neighbour HalfField Reach OneUnfinished
        InitPutBack InitFreed AfterBoot ModuleRange VarRange Base Relocation Again Supersede Dependents
        Overlapped Placed OneFrame Live Similar ModuleInit;
    Part: DeviceMarked HypervisorMarked HypervisorAbsent DataNoExecute BothViews FlushRights FlushAllAsids FlushWindow
        FlushWrap FreshAsid FirstUser WindowTrap WindowSyscall WindowEvent WindowData WindowWrite Scratch Exceptions
        Interrupts Nmis SoftwareInterrupts Icebp SyscallOff SysenterOff GdtHidden LdtHidden;
};

impl Switch {
    /// Its name in reports.
    pub fn name(self) -> String {
        let camel = match self {
            Self::Part(Part::RightsByFrame) => return "approved-page-remapping".into(),
            Self::Part(Part::EveryAlias) => return "writable-alias".into(),
            Self::QuietDevices => return "device-writes".into(),
            Self::Rule(check) => format!("{check:?}"),
            Self::Part(part) => format!("{part:?}"),
        };
        let mut name = String::new();
        for c in camel.chars() {
            if c.is_ascii_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(c.to_ascii_lowercase());
        }
        name
    }
}
