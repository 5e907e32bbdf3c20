//! What of physical memory is RAM of the guest
use core::ops::Range;

use secvisor_amd64::paging::{self, Walk};

use super::physical;
use crate::nested::GuestPaging;

/// Known at launch; it never changes.
pub struct Ram {
    ranges: [Range<u64>; 64],
    kept: [Range<u64>; 2],
}

impl Ram {
    /// Of `ranges`, `kept` is ours.
    pub fn new(ranges: &[Range<u64>], kept: [Range<u64>; 2]) -> Self {
        let mut copy = [const { 0..0 }; 64];
        copy[..ranges.len()].clone_from_slice(ranges);
        Self { ranges: copy, kept }
    }

    /// Whether a physical address is RAM of the guest.
    pub fn contains(&self, at: u64) -> bool {
        self.ranges.iter().any(|r| r.contains(&at)) && !self.kept.iter().any(|r| r.contains(&at))
    }

    /// Where a guest-virtual address leads, by the guest's own tables.
    pub fn walk(&self, guest: GuestPaging, va: u64) -> Option<u64> {
        match guest.levels {
            0 => Some(va),
            4 | 5 => {
                // SAFETY: `at` is a multiple of 8 in RAM (checked here), read once.
                let read = |at: u64| self.contains(at).then(|| unsafe { physical::word(at) });
                match paging::walk(guest.root, guest.levels, va, read) {
                    Walk::Mapped(physical) => Some(physical),
                    Walk::Unmapped => None,
                }
            }
            _ => None,
        }
    }
}
