//! Counters of the hardware side
use secvisor_amd64::event::vector;
use secvisor_amd64::exit::{Exit, REASONS};

/// How often what happened since launch.
#[derive(Default)]
pub struct Stats {
    /// Exits by reason, see [`REASONS`].
    exits: [u64; REASONS.len()],
    /// Exits by intercepted #UD and nested page fault, the two that are counted on the way.
    pub invalid_opcodes: u64,
    /// As above.
    pub nested_page_faults: u64,
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

    /// Exits of one reason.
    pub fn exits(&self, index: usize) -> Option<u64> {
        let counted = match index {
            i if i == Exit::Exception(vector::UD).index() => self.invalid_opcodes,
            i if i == Exit::NestedPageFault.index() => self.nested_page_faults,
            _ => 0,
        };
        #[cfg(feature = "without-hypercall-bounds")]
        // SAFETY: none. This is what the bound is for.
        return Some(unsafe { self.exits.as_ptr().wrapping_add(index).read_volatile() }.wrapping_add(counted));
        #[cfg(not(feature = "without-hypercall-bounds"))]
        Some(self.exits.get(index)? + counted)
    }
}
