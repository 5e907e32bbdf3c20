//! Counters of the hardware side
use secvisor_amd64::exit::{Exit, REASONS};

/// How often what happened since launch.
#[derive(Default)]
pub struct Stats {
    /// Exits by reason, see [`REASONS`].
    pub exits: [u64; REASONS.len()],
    /// Switches between the views.
    pub switches: u64,
    /// TLB flushes asked for.
    pub flushes: u64,
    /// Violations.
    pub violations: u64,
    /// Accesses to memory the guest does not have.
    pub absent: u64,
    /// Windows opened.
    pub windows: u64,
}

impl Stats {
    /// Counts an exit.
    #[inline]
    pub fn exit(&mut self, exit: Exit) {
        self.exits[exit.index()] += 1;
    }
}
