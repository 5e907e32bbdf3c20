//! Nested page-table entries: APM 2, 15.25.5 and 5.4

/// Present.
pub const PRESENT: u64 = 1 << 0;
/// Writable.
pub const WRITE: u64 = 1 << 1;
/// User; every guest access counts as one (15.25.5).
pub const USER: u64 = 1 << 2;
/// Accessed and dirty, preset so that the walker has nothing to write.
pub const USED: u64 = 1 << 5 | 1 << 6;
/// A leaf above the last level.
pub const LARGE: u64 = 1 << 7;
/// Not executable.
pub const NO_EXECUTE: u64 = 1 << 63;
/// The physical address in an entry.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// An entry that leads to the next table: it takes nothing away.
pub const TABLE: u64 = PRESENT | WRITE | USER | 1 << 5;
