//! One event in, one verdict out
use secvisor_approval::PageBytes;

use crate::page::Circumstances;
use crate::{Approved, Frame, Rules, Violation};

/// Rights of a frame in the nested (or shadow) tables.
pub enum Access {
    /// Readable, writable, executable in user mode only.
    Data,
    /// Readable only: nobody changes it, nobody runs it.
    Frozen,
    /// Readable, executable in kernel mode only.
    Executable(Approved),
}

/// What the rules need of the machine. What differs between nested and shadow paging sits behind it.
pub trait Machine {
    /// The bytes of a frame that nobody can write.
    fn page(&self, frame: Frame) -> &PageBytes;
    /// Copies bytes of a frame of RAM, from `offset` on. Somebody may be writing them.
    fn read(&self, frame: Frame, offset: usize, bytes: &mut [u8]);
    /// Replaces the bytes of a frame of RAM.
    fn restore(&mut self, frame: Frame, bytes: &PageBytes);
    /// Gives a frame these rights and no others. When it returns, no CPU and no device can use a right that was
    /// taken away, and no window is open ([`Verdict::Step`]). Fails, changing nothing, if the tables have no room.
    fn set_access(&mut self, frame: Frame, access: Access) -> Result<(), OutOfTables>;
    /// Where the guest's own tables map a virtual address just now. A hint: nothing may rest on it alone.
    fn translate(&self, va: u64) -> Option<Frame>;
}

/// The tables have no room to set a frame apart.
#[derive(Debug)]
pub struct OutOfTables;

/// What happened, in the words of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The kernel tried to execute from a frame that is not executable in kernel mode.
    KernelFetch {
        /// The frame.
        frame: Frame,
        /// Guest-virtual: the page that the frame is fetched as, and the offset at which the instruction begins, be it in this
        /// page or in the one before. The offset is the processor's, so no page table has a say in it.
        va: u64,
        /// The last thing this CPU did was to write this frame with an instruction in it.
        patching: bool,
        /// Another CPU may be in the middle of writing the page: how often this one has waited for it.
        tries: Option<u32>,
    },
    /// Somebody tried to write to a frame that is not writable.
    Write {
        /// The frame.
        frame: Frame,
        /// By an instruction of the kernel that lies in this frame.
        from_within: bool,
    },
    /// The guest is about to execute its first instruction in user mode.
    FirstUser,
}

/// What is to be done.
#[must_use]
pub enum Verdict {
    /// Let the guest try again: it now may.
    Resume,
    /// Let the guest execute one instruction, in a window on this frame, which is frozen for everybody else: Linux is
    /// writing a site of the page it runs from, and all of the page but that site is verified.
    Step,
    /// Let the guest try again: the page is not right, but may become so, see `tries`.
    Wait,
    /// As [`Self::Resume`], and report: a tampered page was put back.
    Restored(Violation),
    /// Refuse and report.
    Refuse(Violation),
}

impl Rules<'_> {
    /// Decides an event.
    pub fn step(&mut self, machine: &mut impl Machine, event: Event) -> Verdict {
        match event {
            Event::KernelFetch { frame, va, patching, tries } => {
                // To look at what it calls takes long: at tries 0, 1, 2, 4, and so on, and at the last.
                let met = tries.is_some_and(|tries| tries > 0 && !tries.is_power_of_two());
                self.kernel_fetch(machine, frame, va, Circumstances { patching, patience: tries.is_some(), met })
            }
            Event::Write { frame, from_within } => self.write(machine, frame, from_within),
            Event::FirstUser => self.pin(machine),
        }
    }
}
