//! Nested paging behind the rules' one interface
use secvisor_approval::PageBytes;
use secvisor_rules::{Access, Frame, Machine as Hardware, OutOfTables};

use crate::machine::Machine;
use crate::mem::npt::NestedTables;
use crate::mem::physical;

/// How the guest translates just now.
#[derive(Clone, Copy, Default)]
pub struct GuestPaging {
    /// Root of its tables.
    pub root: u64,
    /// 4 or 5; 0 while paging is off, 2 for the legacy modes, which are not walked.
    pub levels: u32,
}

/// The nested tables as one CPU changes them, which holds the core's lock.
pub struct Nested<'a> {
    /// The tables.
    pub tables: &'a mut NestedTables,
    /// The machine.
    pub machine: &'a Machine,
    /// That CPU.
    pub me: usize,
    /// How the guest translates on it.
    pub paging: GuestPaging,
}

impl Hardware for Nested<'_> {
    fn page(&self, frame: Frame) -> &PageBytes {
        // SAFETY: the rules ask for frames of RAM that are frozen.
        unsafe { physical::frame(frame) }
    }

    fn read(&self, frame: Frame, offset: usize, bytes: &mut [u8]) {
        assert!(offset + bytes.len() <= 4096);
        // SAFETY: the rules ask for RAM frames of the guest only.
        unsafe { physical::read(frame.address() + offset as u64, bytes) };
    }

    fn restore(&mut self, frame: Frame, bytes: &PageBytes) {
        // SAFETY: as in `page`; frozen frames are nobody's to read but ours and the guest's.
        unsafe { physical::write(frame.address(), bytes) };
    }

    /// First what is taken away, on every CPU, then what is given. No IOMMU yet: devices are not kept out.
    fn set_access(&mut self, frame: Frame, access: Access) -> Result<(), OutOfTables> {
        if self.tables.set_apart(frame).is_err() {
            self.tables.join();
            self.machine.crowd.shoot(self.me);
            self.tables.set_apart(frame).map_err(|_| OutOfTables)?;
        }
        match self.tables.narrow(frame, &access) {
            Ok(true) => self.machine.crowd.shoot(self.me),
            _ => self.machine.crowd.close_windows(self.me),
        }
        self.tables.set(frame, &access).map_err(|_| OutOfTables)
    }

    fn translate(&self, va: u64) -> Option<Frame> {
        self.machine.ram.walk(self.paging, va).map(Frame::containing)
    }
}
