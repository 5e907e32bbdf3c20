//! What the CPUs share
//!
//! Rules, tables, log and ports belong to whoever holds the [`Core`]'s lock. The way into the kernel and out of it needs
//! none of them.
use secvisor_rules::port::Ports;
use secvisor_rules::{Frame, Rules};

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
    pub io_apics: [Option<Frame>; IO_APICS],
    /// Memory of ours, in bytes.
    pub kept: u64,
}

/// How many I/O APICs are held.
pub const IO_APICS: usize = 16;

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

/// How often each CPU tries a page that another may be writing, 50 us apart or more: 50 ms at least, and a second in QEMU.
const TRIES: u32 = 1_000;

/// Frames that were executed and found wrong. Where there are several CPUs one may have written half of a site when another
/// executes beside it; only what stays wrong is a violation. Tries are counted, not time: the clock is the guest's to set.
pub struct Suspects([Option<(Frame, u32)>; 64]);

impl Suspects {
    /// None.
    pub const fn new() -> Self {
        Self([None; 64])
    }

    /// If the frame may still become right, how often it has been tried. Not if there are too many to remember.
    pub fn tries(&self, frame: Frame, cpus: usize) -> Option<u32> {
        match self.0.iter().flatten().find(|(f, _)| *f == frame) {
            Some((_, tries)) => Some(*tries).filter(|tries| *tries < TRIES * cpus as u32),
            None => self.0.iter().any(Option::is_none).then_some(0),
        }
    }

    /// Notes that it is wrong just now.
    pub fn note(&mut self, frame: Frame) {
        let known = self.0.iter().position(|s| matches!(s, Some((f, _)) if *f == frame));
        let Some(at) = known.or_else(|| self.0.iter().position(Option::is_none)) else { return };
        self.0[at] = Some((frame, self.0[at].map_or(1, |(_, tries)| tries + 1)));
    }

    /// Forgets it: it has been decided.
    pub fn forget(&mut self, frame: Frame) {
        self.0.iter_mut().filter(|s| matches!(s, Some((f, _)) if *f == frame)).for_each(|s| *s = None);
    }
}
