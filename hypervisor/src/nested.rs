//! Nested paging behind the rules' one interface
use core::ops::Range;

use secvisor_amd64::paging::{self, Walk};
use secvisor_approval::PageBytes;
use secvisor_rules::{Access, Frame, Machine};

use crate::mem::npt::{Full, NestedTables, View};
use crate::mem::physical;

/// How the guest translates just now.
#[derive(Clone, Copy, Default)]
pub struct GuestPaging {
    /// Root of its tables.
    pub root: u64,
    /// 4 or 5; 0 while paging is off, 2 for the legacy modes, which are not walked.
    pub levels: u32,
}

/// The nested tables, what of RAM there is, and whether a right has shrunk since the guest last ran.
pub struct Nested {
    tables: NestedTables,
    ram: [Range<u64>; 64],
    kept: [Range<u64>; 2],
    /// The TLB must be flushed before the guest runs.
    pub flush: bool,
    /// How the guest translates.
    pub paging: GuestPaging,
}

impl Nested {
    /// Takes the tables. Of `ram`, `kept` is ours.
    pub fn new(tables: NestedTables, ram: &[Range<u64>], kept: [Range<u64>; 2]) -> Self {
        let mut copy = [const { 0..0 }; 64];
        copy[..ram.len()].clone_from_slice(ram);
        Self { tables, ram: copy, kept, flush: true, paging: GuestPaging::default() }
    }

    /// Root of a view.
    pub fn root(&self, view: View) -> u64 {
        self.tables.root(view)
    }

    /// Sets a frame's rights.
    pub fn set(&mut self, frame: Frame, access: Access) -> Result<(), Full> {
        self.flush = true;
        self.tables.set(frame, &access)
    }

    /// Makes a device frame read-only for good.
    pub fn hold(&mut self, frame: Frame) -> Result<(), Full> {
        self.flush = true;
        self.tables.hold(frame)
    }

    /// Whether a device frame is read-only.
    pub fn is_held(&self, frame: Frame) -> bool {
        self.tables.is_held(frame)
    }

    /// Replaces one entry for the length of a window.
    pub fn replace(&mut self, view: View, frame: Frame, entry: u64) -> Result<u64, Full> {
        self.flush = true;
        self.tables.replace(view, frame, entry)
    }

    /// Whether a physical address is RAM of the guest.
    pub fn is_ram(&self, at: u64) -> bool {
        self.ram.iter().any(|r| r.contains(&at)) && !self.kept.iter().any(|r| r.contains(&at))
    }

    /// Where a guest-virtual address leads, by the guest's own tables.
    pub fn walk(&self, va: u64) -> Option<u64> {
        match self.paging.levels {
            0 => Some(va),
            4 | 5 => {
                let read = |at: u64| {
                    // SAFETY: `at` is a multiple of 8 in RAM (checked here); the guest is stopped.
                    self.is_ram(at).then(|| unsafe { physical::word(at) })
                };
                match paging::walk(self.paging.root, self.paging.levels, va, read) {
                    Walk::Mapped(physical) => Some(physical),
                    Walk::Unmapped => None,
                }
            }
            _ => None,
        }
    }
}

impl Machine for Nested {
    fn page(&self, frame: Frame) -> &PageBytes {
        // SAFETY: the rules ask for RAM frames of the guest only, and it is stopped.
        unsafe { physical::frame(frame) }
    }

    fn restore(&mut self, frame: Frame, bytes: &PageBytes) {
        // SAFETY: as above.
        unsafe { physical::write(frame.address(), bytes) };
    }

    /// One CPU: the flush before it next runs is enough. No IOMMU yet: devices are not kept out.
    fn set_access(&mut self, frame: Frame, access: Access) -> Result<(), secvisor_rules::OutOfTables> {
        self.set(frame, access).map_err(|_| secvisor_rules::OutOfTables)
    }

    fn translate(&self, va: u64) -> Option<Frame> {
        self.walk(va).map(Frame::containing)
    }
}
