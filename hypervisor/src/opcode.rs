//! Reading the two bytes at the guest's RIP, fast
//!
//! A system call's opcode must be read through the guest's own tables. The last walks are remembered with every entry
//! they went through: if all of these still hold the same values the walk would give the same result, whatever else
//! has changed, so the remembered result is exact.
use secvisor_amd64::paging::{self, Walk};

use crate::mem::physical;
use crate::mem::ram::Ram;
use crate::nested::GuestPaging;

/// Walks remembered.
const WALKS: usize = 64;
/// Levels of a walk that can be remembered.
const LEVELS: usize = 4;

#[repr(align(128))]
#[derive(Clone, Copy)]
struct Known {
    root: u64,
    page: u64,
    entries: [(u64, u64); LEVELS],
    physical: u64,
}

/// The walks remembered.
pub struct Opcodes([Known; WALKS]);

impl Opcodes {
    /// None yet.
    pub const fn new() -> Self {
        Self([Known { root: u64::MAX, page: 0, entries: [(0, 0); LEVELS], physical: 0 }; WALKS])
    }

    /// The two bytes at a linear address under 4-level tables. `None` if they cannot be read from RAM of the guest.
    #[inline]
    pub fn read(&mut self, ram: &Ram, root: u64, va: u64) -> Option<u16> {
        let page = va >> 12;
        let known = &self.0[page as usize % WALKS];
        if known.root == root
            && known.page == page
            && va & 0xfff != 0xfff
            // SAFETY: aligned words in guest RAM, checked when remembered: RAM does not become anything else.
            && known.entries.iter().all(|(at, value)| unsafe { physical::word(*at) } == *value)
        {
            // SAFETY: likewise; the second byte lies in the same page.
            return Some(unsafe { physical::pair(known.physical + (va & 0xfff)) });
        }
        self.walk(ram, GuestPaging { root, levels: LEVELS as u32 }, va)
    }

    /// As [`Self::read`], without looking at what is remembered; any number of levels.
    #[cold]
    #[inline(never)]
    pub fn walk(&mut self, ram: &Ram, paging: GuestPaging, va: u64) -> Option<u16> {
        let first = self.remember(ram, paging, va)?;
        let second = if va & 0xfff == 0xfff { self.remember(ram, paging, va + 1)? } else { first + 1 };
        // SAFETY: both are RAM of the guest.
        Some(unsafe { u16::from_le_bytes([physical::byte(first), physical::byte(second)]) })
    }

    /// Walks, and remembers what it went through.
    fn remember(&mut self, ram: &Ram, paging: GuestPaging, va: u64) -> Option<u64> {
        let entries = core::cell::Cell::new(([(0, 0); LEVELS], 0));
        let read = |at: u64| {
            // SAFETY: an aligned word in RAM of the guest (checked).
            let value = ram.contains(at).then(|| unsafe { physical::word(at) })?;
            let (mut list, count) = entries.get();
            // A walk over fewer levels fills the rest with its last entry.
            list[count.min(LEVELS - 1)..].fill((at, value));
            entries.set((list, count + 1));
            Some(value)
        };
        if paging.levels < 4 {
            return None;
        }
        let Walk::Mapped(at) = paging::walk(paging.root, paging.levels, va, read) else { return None };
        if !ram.contains(at) {
            return None;
        }
        let (list, count) = entries.get();
        if count <= LEVELS {
            let page = va >> 12;
            self.0[page as usize % WALKS] = Known { root: paging.root, page, entries: list, physical: at & !0xfff };
        }
        Some(at)
    }
}
