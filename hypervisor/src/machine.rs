//! What the CPUs share
//!
//! Rules, tables, log and ports belong to whoever holds the [`Core`]'s lock. The way into the kernel and out of it needs
//! none of them.
use secvisor_rules::port::Ports;
use secvisor_rules::{Frame, Rules};

use crate::cpu::instr;
use crate::cpu::svm::Features;
use crate::crowd::Crowd;
use crate::mem::lock::Lock;
use crate::mem::npt::NestedTables;
use crate::mem::once::SetOnce;
use crate::mem::ram::Ram;
use crate::violation::Log;

/// The machine; set before the guest runs.
pub static MACHINE: SetOnce<Machine> = SetOnce::new();

/// See the module.
pub struct Machine {
    /// What one CPU at a time may use.
    pub core: Lock<Core>,
    /// The CPUs.
    pub crowd: Crowd,
    /// RAM of the guest.
    pub ram: Ram,
    /// What the processors can do.
    pub features: Features,
    /// Roots of the nested tables.
    pub kernel_root: u64,
    /// As above.
    pub user_root: u64,
    /// Frames of I/O APICs, as the firmware names them.
    pub io_apics: [Option<Frame>; 16],
    /// Memory of ours, in bytes.
    pub kept: u64,
}

/// What one CPU at a time may use.
pub struct Core {
    /// The rules.
    pub rules: Rules<'static>,
    /// The nested tables.
    pub tables: NestedTables,
    /// The last violations.
    pub log: &'static mut Log,
    /// What the guest has written to ports that matter.
    pub ports: Ports,
    /// Pages that are not right, but may become so.
    pub suspects: Suspects,
}

/// How long another CPU is given to finish writing a page, in cycles of the time-stamp counter: a second or two.
const GRACE: u64 = 1 << 32;

/// Frames that were executed and found wrong a short time ago. Where there are several CPUs one may have written half of a
/// site when another executes beside it; only what stays wrong is a violation.
pub struct Suspects([Suspect; 64]);

#[derive(Clone, Copy)]
struct Suspect {
    frame: Frame,
    since: u64,
    last: u64,
}

impl Suspects {
    /// None.
    pub const fn new() -> Self {
        Self([Suspect { frame: Frame(u64::MAX), since: 0, last: 0 }; 64])
    }

    /// Whether the frame may still become right.
    pub fn patience(&self, frame: Frame) -> bool {
        let now = instr::rdtsc();
        !self.0.iter().any(|s| s.frame == frame && now - s.last < GRACE && now - s.since >= GRACE)
    }

    /// Notes that it is wrong just now.
    pub fn note(&mut self, frame: Frame) {
        let now = instr::rdtsc();
        let known = self.0.iter().position(|s| s.frame == frame);
        let oldest = || (0..self.0.len()).min_by_key(|i| self.0[*i].last).unwrap_or(0);
        let slot = &mut self.0[known.unwrap_or_else(oldest)];
        if slot.frame != frame || now - slot.last >= GRACE {
            *slot = Suspect { frame, since: now, last: now };
        }
        slot.last = now;
    }

    /// Forgets it: it has been decided.
    pub fn forget(&mut self, frame: Frame) {
        let found = self.0.iter_mut().filter(|s| s.frame == frame);
        found.for_each(|s| *s = Suspect { frame: Frame(u64::MAX), since: 0, last: 0 });
    }
}
