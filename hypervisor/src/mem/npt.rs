//! Two nested views: kernel and user
//!
//! Both map guest-physical addresses one to one. They differ in who may execute what: the kernel view executes
//! approved frames only, the user view data frames only. Ranges without RAM look the same in both and share
//! their tables. A 2 MiB range is split when one of its frames is set apart.
use core::sync::atomic::{AtomicU64, Ordering};

use secvisor_amd64::npt::{ADDRESS, LARGE, NO_EXECUTE, PRESENT, TABLE, USED, USER, WRITE};
use secvisor_rules::{Access, Frame, FrameState, FrameTable};

/// Which table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// On while the guest's CPL is 0, and whenever it could become so without an exit.
    Kernel,
    /// On only while CPL is 3 and every way out of it exits.
    User,
}

const VIEWS: [View; 2] = [View::Kernel, View::User];
const GIB: u64 = 1 << 30;
const SLOT: u64 = 1 << 39;
/// One behind the last guest-physical address that tables of four levels map.
pub const LIMIT: u64 = 1 << 48;
const ENTRIES: usize = 512;
/// Tables for the device frames that are held: a directory and a few tables in both views.
const HELD: usize = 16;

/// A table. Other CPUs' page walks read it at any time, so every entry is written as a whole.
pub struct Table([AtomicU64; ENTRIES]);

impl Table {
    fn get(&self, index: usize) -> u64 {
        self.0[index].load(Ordering::Relaxed)
    }

    fn set(&self, index: usize, entry: u64) {
        self.0[index].store(entry, Ordering::Release);
    }

    /// Entries of `size` bytes each in place of one larger leaf.
    fn split(&self, leaf: u64, size: u64) {
        let large = if size > 4096 { LARGE } else { 0 };
        for i in 0..ENTRIES {
            self.set(i, ((leaf & !LARGE) + i as u64 * size) | large);
        }
    }
}

/// Rights of a leaf.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaf {
    Data,
    Frozen,
    Executable,
    Device,
    Absent,
}

impl Leaf {
    fn of(access: &Access) -> Self {
        match access {
            Access::Data => Self::Data,
            Access::Frozen => Self::Frozen,
            Access::Executable(_) => Self::Executable,
        }
    }

    fn bits(self, view: View) -> u64 {
        let base = PRESENT | USER | USED;
        match (self, view) {
            (Self::Absent, _) if cfg!(feature = "without-hypervisor-absent") => base | WRITE,
            (Self::Absent, _) => 0,
            (Self::Device, _) | (Self::Data, View::Kernel) => base | WRITE | NO_EXECUTE,
            (Self::Data, View::User) => base | WRITE,
            (Self::Frozen, _) | (Self::Executable, View::User) => base | NO_EXECUTE,
            (Self::Executable, View::Kernel) => base,
        }
    }
}

/// The nested tables of both views, in memory of ours. Table 0 is the kernel view's root, 1 the user view's.
pub struct NestedTables {
    tables: &'static mut [Table],
    used: usize,
    base: u64,
    /// First of the tables given back; each holds the index of the next in its first entry, 0 ends the list.
    free: usize,
}

/// The pool is used up, or the address is beyond what is mapped.
pub struct Full;

/// How many tables a machine needs: those of launch, and `splits` 2 MiB ranges set apart later.
pub fn tables_needed(physical_bits: u32, frames: u64, splits: usize) -> usize {
    let slots = (1usize << (physical_bits.clamp(39, 48) - 39)).max(1);
    let ram_slots = (frames * 4096).div_ceil(SLOT) as usize;
    let gibs = (frames * 4096).div_ceil(GIB) as usize;
    2 + slots + 2 * ram_slots + 2 * gibs + 2 * splits + HELD
}

impl NestedTables {
    /// Builds both views. `memory` is ours, zeroed, page-aligned.
    pub fn new(memory: &'static mut [Table], physical_bits: u32, frames: &FrameTable<'_>) -> Result<Self, Full> {
        let base = memory.as_ptr() as u64;
        let mut this = Self { tables: memory, used: 2, base, free: 0 };
        let slots = 1u64 << (physical_bits.clamp(39, 48) - 39);
        let end = frames.len() as u64 * 4096;
        for slot in 0..slots {
            if slot * SLOT >= end {
                let shared = this.take()?;
                for i in 0..ENTRIES {
                    let leaf = Leaf::Device.bits(View::Kernel) | LARGE;
                    this.tables[shared].set(i, (slot * SLOT + i as u64 * GIB) | leaf);
                }
                this.link(0, slot as usize, shared);
                this.link(1, slot as usize, shared);
                continue;
            }
            for view in VIEWS {
                let pdpt = this.take()?;
                this.link(view as usize, slot as usize, pdpt);
                for i in 0..ENTRIES {
                    let at = slot * SLOT + i as u64 * GIB;
                    let entry = match at >= end {
                        true => at | Leaf::Device.bits(view) | LARGE,
                        false => this.build_gib(view, at, frames)?,
                    };
                    this.tables[pdpt].set(i, entry);
                }
            }
        }
        Ok(this)
    }

    /// The directory of one GiB that has RAM in it.
    fn build_gib(&mut self, view: View, at: u64, frames: &FrameTable<'_>) -> Result<u64, Full> {
        let directory = self.take()?;
        for i in 0..ENTRIES {
            let first = at / 4096 + (i * ENTRIES) as u64;
            let kind = |n: u64| match frames.get(Frame(n)) {
                FrameState::Data => Leaf::Data,
                FrameState::Approved(_) => Leaf::Executable,
                FrameState::Hypervisor => Leaf::Absent,
                FrameState::Device => Leaf::Device,
            };
            let leaf = kind(first);
            let entry = if (first..first + ENTRIES as u64).all(|n| kind(n) == leaf) {
                (first * 4096) | leaf.bits(view) | LARGE
            } else {
                let table = self.take()?;
                for j in 0..ENTRIES {
                    let n = first + j as u64;
                    self.tables[table].set(j, (n * 4096) | kind(n).bits(view));
                }
                self.address(table) | TABLE
            };
            self.tables[directory].set(i, entry);
        }
        Ok(self.address(directory) | TABLE)
    }

    /// Physical address of a view's root.
    pub fn root(&self, view: View) -> u64 {
        self.address(view as usize)
    }

    fn address(&self, table: usize) -> u64 {
        self.base + table as u64 * 4096
    }

    fn take(&mut self) -> Result<usize, Full> {
        if self.free != 0 {
            let table = self.free;
            self.free = (self.tables[table].get(0) >> 12) as usize;
            return Ok(table);
        }
        if self.used == self.tables.len() {
            return Err(Full);
        }
        self.used += 1;
        Ok(self.used - 1)
    }

    /// Joins every 2 MiB range again that was split and of which no frame is set apart any more. Their rights do not
    /// change, but the caller makes every CPU flush: no walk may go through a table that is used for another range.
    pub fn join(&mut self) {
        for view in VIEWS {
            let plain = Leaf::Data.bits(view);
            for slot in 0..ENTRIES {
                for gib in 0..ENTRIES {
                    let Some(directory) = self.table_at(view as usize, slot).and_then(|t| self.table_at(t, gib)) else {
                        break;
                    };
                    for i in 0..ENTRIES {
                        let Some(table) = self.table_at(directory, i) else { continue };
                        let first = self.tables[table].get(0) & ADDRESS;
                        let plain_at = |j: usize| self.tables[table].get(j) == (first + j as u64 * 4096) | plain;
                        if (0..ENTRIES).all(plain_at) {
                            self.tables[directory].set(i, first | plain | LARGE);
                            // Not present, should a walk come through here before all have flushed.
                            self.tables[table].set(0, (self.free as u64) << 12);
                            self.free = table;
                        }
                    }
                }
            }
        }
    }

    /// The table an entry leads to, if it does not end the walk.
    fn table_at(&self, table: usize, index: usize) -> Option<usize> {
        let entry = self.tables[table].get(index);
        (entry & PRESENT != 0 && entry & LARGE == 0).then(|| self.next(entry))
    }

    fn link(&mut self, table: usize, index: usize, to: usize) {
        self.tables[table].set(index, self.address(to) | TABLE);
    }

    /// The table an entry leads to.
    fn next(&self, entry: u64) -> usize {
        ((entry & ADDRESS) - self.base) as usize / 4096
    }

    /// Table and index of a frame's own entry, the ranges above it split if need be.
    fn entry(&mut self, view: View, frame: Frame) -> Result<(usize, usize), Full> {
        let mut table = view as usize;
        for shift in [27, 18, 9] {
            let index = (frame.0 >> shift) as usize % ENTRIES;
            let entry = self.tables[table].get(index);
            if entry == 0 {
                return Err(Full);
            }
            if entry & LARGE != 0 {
                let below = self.take()?;
                self.tables[below].split(entry, 4096 << (shift - 9));
                self.link(table, index, below);
            }
            table = self.next(self.tables[table].get(index));
        }
        Ok((table, frame.0 as usize % ENTRIES))
    }

    /// Makes sure that a frame has entries of its own. `Err`: [`Self::join`], then try again.
    pub fn set_apart(&mut self, frame: Frame) -> Result<(), Full> {
        VIEWS.into_iter().try_for_each(|view| self.entry(view, frame).map(|_| ()))
    }

    /// Takes away the rights that `access` does not give. Whether there were any: then the caller makes every CPU flush
    /// before [`Self::set`].
    pub fn narrow(&mut self, frame: Frame, access: &Access) -> Result<bool, Full> {
        let mut shrunk = false;
        for view in VIEWS {
            let (table, index) = self.entry(view, frame)?;
            let (old, new) = (self.tables[table].get(index), frame.address() | Leaf::of(access).bits(view));
            let both = new & !WRITE | old & new & WRITE | (old | new) & NO_EXECUTE;
            if both != old {
                self.tables[table].set(index, both);
                shrunk |= old & !new & WRITE != 0 || new & !old & NO_EXECUTE != 0;
            }
        }
        Ok(shrunk)
    }

    /// Sets a frame's rights in both views.
    pub fn set(&mut self, frame: Frame, access: &Access) -> Result<(), Full> {
        for view in VIEWS {
            let (table, index) = self.entry(view, frame)?;
            self.tables[table].set(index, frame.address() | Leaf::of(access).bits(view));
        }
        Ok(())
    }

    /// Makes a device frame read-only in both views. For launch only.
    pub fn hold(&mut self, frame: Frame) -> Result<(), Full> {
        for view in VIEWS {
            let (table, index) = self.entry(view, frame)?;
            self.tables[table].set(index, self.tables[table].get(index) & !WRITE);
        }
        Ok(())
    }

    /// Whether a frame is read-only in the kernel view: a device frame that is held, or one that is frozen or approved.
    pub fn is_held(&self, frame: Frame) -> bool {
        let mut table = View::Kernel as usize;
        for shift in [27, 18, 9] {
            match self.table_at(table, (frame.0 >> shift) as usize % ENTRIES) {
                Some(next) => table = next,
                None => return false,
            }
        }
        self.tables[table].get(frame.0 as usize % ENTRIES) & WRITE == 0
    }

    /// Tables of a view for one CPU's window: like the view's own but for these entries. Physical address of their root.
    pub fn overlay(&self, view: View, entries: [Option<(Frame, u64)>; 2], overlay: &mut Overlay) -> Option<u64> {
        let tables = &overlay.0;
        let base = tables.as_ptr() as u64;
        let copy = |from: &Table, to: &Table| (0..ENTRIES).for_each(|i| to.set(i, from.get(i)));
        copy(&self.tables[view as usize], &tables[0]);
        let mut used = 1;
        for (frame, leaf) in entries.into_iter().flatten() {
            let mut table = 0;
            for shift in [27, 18, 9] {
                let index = (frame.0 >> shift) as usize % ENTRIES;
                let entry = tables[table].get(index);
                let own = ((entry & ADDRESS).wrapping_sub(base) / 4096) as usize;
                if entry & LARGE == 0 && own < used {
                    table = own;
                    continue;
                }
                match entry & LARGE != 0 {
                    _ if entry == 0 => return None,
                    true => tables[used].split(entry, 4096 << (shift - 9)),
                    false => copy(&self.tables[self.next(entry)], &tables[used]),
                }
                tables[table].set(index, (base + used as u64 * 4096) | TABLE);
                table = used;
                used += 1;
            }
            tables[table].set(frame.0 as usize % ENTRIES, leaf);
        }
        Some(base)
    }

    /// The entry of a window: this frame, writable, executable if `execute`.
    pub fn open_entry(frame: Frame, execute: bool) -> u64 {
        frame.address() | PRESENT | USER | USED | WRITE | if execute { 0 } else { NO_EXECUTE }
    }
}

/// A CPU's own tables for its windows: a root, and three levels for each of two frames.
#[repr(C, align(4096))]
pub struct Overlay([Table; 7]);
