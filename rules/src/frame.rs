//! The state of every page frame
//!
//! One `u16` per frame of RAM: the approval page it holds, or one of three marks. Everything outside the
//! table is a device frame.

/// Number of a 4 KiB page frame (physical address / 4096).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frame(pub u64);

impl Frame {
    /// The frame that holds a physical address.
    pub fn containing(physical: u64) -> Self {
        Self(physical >> 12)
    }
    /// Physical address of its first byte.
    pub fn address(self) -> u64 {
        self.0 << 12
    }
}

/// What a frame is to the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameState {
    /// Writable, never executable in kernel mode.
    Data,
    /// Holds this page of the approval, verified: executable in kernel mode, not writable.
    Approved(u32),
    /// The hypervisor's own: absent for the guest.
    Hypervisor,
    /// Not RAM at launch: writable, never executable, never approved, because a device can change it.
    Device,
}

const DATA: u16 = 0xffff;
const HYPERVISOR: u16 = 0xfffe;
const DEVICE: u16 = 0xfffd;

/// Most pages an approval may have, so that a page number fits beside the three marks.
pub const MAX_PAGES: usize = DEVICE as usize;

/// The state of every frame. `INV-6`: only data and approved frames change, in [`FrameTable::set`].
pub struct FrameTable<'a>(&'a mut [u16]);

impl<'a> FrameTable<'a> {
    /// A table over memory the caller gives, every frame a device frame.
    pub fn new(entries: &'a mut [u16]) -> Self {
        entries.fill(DEVICE);
        Self(entries)
    }

    /// A table over memory that was one before.
    #[cfg(feature = "model")]
    pub fn resume(entries: &'a mut [u16]) -> Self {
        Self(entries)
    }

    /// Marks frames as RAM. For launch only.
    pub fn add_ram(&mut self, frames: core::ops::Range<u64>) {
        self.0[frames.start as usize..frames.end as usize].fill(DATA);
    }

    /// Takes frames for the hypervisor. For launch only.
    pub fn add_hypervisor(&mut self, frames: core::ops::Range<u64>) {
        self.0[frames.start as usize..frames.end as usize].fill(HYPERVISOR);
    }

    /// State of a frame.
    #[inline]
    pub fn get(&self, frame: Frame) -> FrameState {
        match self.0.get(frame.0 as usize) {
            None | Some(&DEVICE) => FrameState::Device,
            Some(&DATA) => FrameState::Data,
            Some(&HYPERVISOR) => FrameState::Hypervisor,
            Some(&page) => FrameState::Approved(page as u32),
        }
    }

    /// Whether a frame is data: the question asked at every return to user mode.
    #[inline]
    pub fn is_data(&self, frame: Frame) -> bool {
        self.0.get(frame.0 as usize) == Some(&DATA)
    }

    /// Number of frames the table covers.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it covers none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes a data frame approved, or an approved frame data.
    pub(crate) fn set(&mut self, frame: Frame, page: Option<u32>) {
        let entry = &mut self.0[frame.0 as usize];
        assert!(*entry != HYPERVISOR && *entry != DEVICE, "only data and approved frames change state");
        *entry = page.map_or(DATA, |p| p as u16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_frame_is() {
        let mut entries = [0; 4];
        let mut table = FrameTable::new(&mut entries);
        table.add_ram(0..3);
        table.add_hypervisor(2..3);
        table.set(Frame(1), Some(7));
        let states = [FrameState::Data, FrameState::Approved(7), FrameState::Hypervisor, FrameState::Device];
        for (frame, state) in states.into_iter().chain([FrameState::Device]).enumerate() {
            assert_eq!(table.get(Frame(frame as u64)), state);
            assert_eq!(table.is_data(Frame(frame as u64)), state == FrameState::Data);
        }
        assert!(table.len() == 4 && !table.is_empty());
        assert!(FrameTable::new(&mut []).is_empty());
    }
}
