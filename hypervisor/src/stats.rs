//! Counters of the hardware side
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use secvisor_amd64::event::vector;
use secvisor_amd64::exit::{Exit, REASONS};

/// A counter that one CPU at a time adds to and all may read.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds one: no locked instruction, since nobody else adds.
    #[inline]
    pub fn add(&self) {
        self.0.store(self.0.load(Relaxed) + 1, Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How often what happened on a CPU since launch.
#[derive(Default)]
pub struct Stats {
    /// Exits by reason, see [`REASONS`].
    exits: [Counter; REASONS.len()],
    /// Exits by intercepted #UD and nested page fault, the two that are counted on the way.
    pub invalid_opcodes: Counter,
    /// As above.
    pub nested_page_faults: Counter,
    /// Switches between the views.
    pub switches: Counter,
    /// TLB flushes asked for.
    pub flushes: Counter,
    /// Violations.
    pub violations: Counter,
    /// Accesses to memory the guest does not have.
    pub absent: Counter,
    /// Windows opened.
    pub windows: Counter,
}

impl Stats {
    /// Counts an exit.
    #[inline]
    pub fn exit(&self, exit: Exit) {
        self.exits[exit.index()].add();
    }

    /// Exits of one reason.
    pub fn exits(&self, index: usize) -> Option<u64> {
        let counted = match index {
            i if i == Exit::Exception(vector::UD).index() => self.invalid_opcodes.get(),
            i if i == Exit::NestedPageFault.index() => self.nested_page_faults.get(),
            _ => 0,
        };
        #[cfg(feature = "without-hypercall-bounds")]
        // SAFETY: none. This is what the bound is for.
        return Some(
            unsafe { self.exits.as_ptr().wrapping_add(index).cast::<u64>().read_volatile() }.wrapping_add(counted),
        );
        #[cfg(not(feature = "without-hypercall-bounds"))]
        Some(self.exits.get(index)?.get() + counted)
    }
}
