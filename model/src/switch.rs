//! What can be left out, one at a time: each must bring an attack to light
use secvisor_rules::check::Check;

macro_rules! parts {
    ($($part:ident: $what:literal;)*) => {
        /// Part of what the hardware layer does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Part { $(#[doc = $what] $part,)* }

        const PARTS: &[(Part, &str)] = &[$((Part::$part, $what)),*];
    };
}

parts! {
    RightsByFrame: "rights belong to frames, not to virtual pages: a remapped page has those of its new frame";
    EveryAlias: "rights belong to frames: freezing one takes the right to write from every alias";
    DeviceMarked: "launch marks device frames as such";
    HypervisorMarked: "launch marks the hypervisor's frames as such";
    HypervisorAbsent: "the hypervisor's frames are absent from the tables";
    DataNoExecute: "data is not executable in the kernel view";
    BothViews: "a frame that is frozen or executable is not writable in the user view either";
    FlushRights: "a change of a frame's rights flushes the TLB";
    FlushAllAsids: "that flush reaches every ASID";
    FlushAllCpus: "that flush reaches every CPU";
    CloseWindows: "the windows of other CPUs are closed before a frame's rights change";
    FlushWindow: "closing a window flushes the TLB";
    FlushWrap: "when ASIDs run out the TLB is flushed";
    FreshAsid: "the user view gets an ASID of its own each time it is entered";
    FirstUser: "the first user-mode instruction is reported to the rules";
    WindowTrap: "a window is closed by a trap behind its instruction";
    WindowSyscall: "SYSCALL and SYSRET, which change the trap flag before it counts, are off in a window";
    WindowEvent: "no event is delivered into an open window";
    WindowData: "a window for a segment load opens on data only";
    Scratch: "in a window absent memory is a frame of ones, not the hypervisor's";
    Exceptions: "the user view intercepts exceptions";
    Interrupts: "the user view intercepts interrupts";
    Nmis: "the user view intercepts NMIs";
    SoftwareInterrupts: "the user view intercepts INT n";
    Icebp: "the user view intercepts INT1";
    SyscallOff: "EFER.SCE is 0 in the user view";
    SysenterOff: "SYSENTER_CS is 0";
    GdtHidden: "the limit of the GDT is 0 in the user view";
    LdtHidden: "the limit of the LDT is 0 in the user view";
}

const CHECKS: &[(Check, &str)] = &[
    (Check::Freeze, "a frame is frozen before it is compared"),
    (Check::Bytes, "every byte outside of sites is compared"),
    (Check::Site, "a site holds one of its values"),
    (Check::Int3, "a half-written site begins with INT3"),
    (Check::Function, "a static call leads to a function"),
    (Check::Pinned, "what only boot may choose stays as it was then"),
    (Check::Chosen, "a module's site agrees with what boot has chosen"),
    (Check::BootOnly, "forms of boot never hold later"),
    (Check::Straddler, "a site across two pages is compared as a whole"),
    (Check::Neighbour, "the page beside is the approved one, not what the guest's tables show"),
    (Check::HalfField, "half a field of an unknown variable is refused"),
    (Check::Reach, "a site that is not verified is not executed"),
    (Check::OneUnfinished, "only one site may be unfinished"),
    (Check::InitPutBack, "init text is never put back"),
    (Check::InitFreed, "init text that was freed never runs again"),
    (Check::AfterBoot, "modules run only once user mode was reached"),
    (Check::ModuleRange, "code of modules lies in their range"),
    (Check::VarRange, "what modules refer to lies in their range"),
    (Check::Base, "a page of a module is at its place"),
    (Check::Relocation, "a relocated field holds the address it must"),
    (Check::Again, "a module that is placed anew is compared again with what is then known"),
    (Check::Supersede, "a module that is placed anew ends what it was before"),
    (Check::Dependents, "it ends what refers to it, too"),
    (Check::Overlapped, "it ends what it is placed over"),
    (Check::Placed, "what a page is placed by is still known once that has ended"),
    (Check::OneFrame, "a page of a module is approved in one frame"),
    (Check::Live, "only a page that was approved in this frame is put back"),
    (Check::Similar, "only a page that is mostly itself is put back"),
    (Check::ModuleInit, "only a module's text is put back, not its init text"),
];

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

/// The two attacks on SecVisor's first design that a model checker found (Franklin, Seshadri, Qu, Chaki, Datta).
pub const PUBLISHED: [Switch; 2] = [Switch::Part(Part::RightsByFrame), Switch::Part(Part::EveryAlias)];

/// What matters only where there are several CPUs.
const SEVERAL: [Switch; 2] = [Switch::Part(Part::FlushAllCpus), Switch::Part(Part::CloseWindows)];

/// Every check there is with so many CPUs: the published attacks' first, then the rules', then the hardware layer's.
pub fn checks(cpus: usize) -> Vec<Switch> {
    let rules = CHECKS.iter().map(|(check, _)| Switch::Rule(*check));
    let parts = PARTS.iter().map(|(part, _)| Switch::Part(*part));
    let parts = parts.filter(|s| !PUBLISHED.contains(s) && (cpus > 1 || !SEVERAL.contains(s)));
    PUBLISHED.into_iter().chain(rules).chain(parts).collect()
}

/// The switch of this name.
pub fn named(name: &str) -> Option<Switch> {
    checks(usize::MAX).into_iter().chain([Switch::QuietDevices]).find(|s| s.name() == name)
}

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

    /// What holds unless it is left out.
    pub fn what(self) -> &'static str {
        match self {
            Self::Rule(check) => CHECKS.iter().find(|(c, _)| *c == check).map_or("", |(_, what)| what),
            Self::Part(part) => PARTS.iter().find(|(p, _)| *p == part).map_or("", |(_, what)| what),
            Self::QuietDevices => "no device writes to memory behind SecVisor's back: no IOMMU is driven yet",
        }
    }

    /// Whose it is.
    pub fn owner(self) -> &'static str {
        match self {
            _ if PUBLISHED.contains(&self) => "published",
            Self::Rule(_) => "rules",
            Self::Part(_) => "hardware",
            Self::QuietDevices => "assumption",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_check_of_the_rules_can_be_left_out() {
        let source = include_str!("../../rules/src/check.rs");
        let body = source.split("pub enum Check {").nth(1).and_then(|s| s.split('}').next()).expect("the checks");
        let names = body.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("//"));
        let listed: Vec<String> = CHECKS.iter().map(|(check, _)| format!("{check:?},")).collect();
        assert!(names.eq(listed.iter().map(String::as_str)));
    }

    #[test]
    fn names_are_found() {
        let all = checks(2);
        assert_eq!(all.iter().map(|s| s.name()).collect::<HashSet<_>>().len(), all.len());
        assert!(all.iter().all(|s| named(&s.name()) == Some(*s) && !s.what().is_empty()));
        assert_eq!(checks(1).len() + SEVERAL.len(), all.len());
        assert_eq!(named("device-writes"), Some(Switch::QuietDevices));
        assert_eq!(named("no-such-check"), None);
        assert_eq!(PUBLISHED.map(Switch::name), ["approved-page-remapping", "writable-alias"]);
    }
}
