//! What a machine is like between two steps
use std::sync::RwLock;

use secvisor_rules::model::Rest;

use crate::bytes::{Choice, PAGES, VARS};
use crate::world::{FRAMES, Id};

/// Most CPUs.
pub const CPUS: usize = 2;
/// Most address-space identifiers: the kernel view's, and those that the user view has in turn.
pub const ASIDS: usize = 3;
/// No frame.
pub const NONE: u8 = u8::MAX;

/// Rights of a frame in the nested tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Right {
    /// Writable; executable in the user view.
    Data,
    /// Readable.
    Frozen,
    /// Executable in the kernel view.
    Executable,
}

/// Which nested tables a CPU uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// The kernel view.
    Kernel,
    /// The user view.
    User,
}

/// What a window is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// An instruction that writes the page it is fetched from.
    SelfPatch,
    /// An access to memory that the guest does not have.
    Absent,
    /// A segment load in user mode.
    Segment,
}

/// An open window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// What for.
    pub purpose: Purpose,
    /// The view it is in.
    pub view: View,
    /// Its frames.
    pub frames: [u8; 2],
    /// The next instruction ends with an exit.
    pub trapped: bool,
    /// Another CPU has changed the tables: this one is out of the guest and has no right of the window any more.
    pub closed: bool,
}

/// A translation's rights: write.
pub const W: u8 = 1;
/// Execute, at the CPL that the view is for.
pub const X: u8 = 2;
/// The hypervisor's frame of ones in place of the frame.
pub const SCRATCH: u8 = 4;

/// A CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cpu {
    /// Privilege level: 3, otherwise 0.
    pub user: bool,
    /// The nested tables in use.
    pub view: View,
    /// The user view's last ASID, from 1.
    pub asid: u8,
    /// The frame that the last instruction wrote from within.
    pub patching: u8,
    /// The open window.
    pub window: Option<Window>,
    /// By ASID and frame: every right that a translation may still have, whatever the virtual page.
    pub tlb: [[u8; FRAMES]; ASIDS],
    /// ASIDs, as bits, that may hold translations the guest has taken back.
    pub taken_back: u8,
}

/// What the rules remember, in small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Remembered {
    /// The frame table's entries.
    pub frames: [u16; FRAMES],
    /// The bytes last verified, by page.
    pub pages: [Id; PAGES],
    /// Where each page was last approved.
    pub places: [u8; PAGES],
    /// Values of variables.
    pub vars: [u64; VARS],
    /// Number of a [`Rest`].
    pub rest: u8,
}

/// What the oracle remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ghost {
    /// User mode was reached.
    pub booted: bool,
    /// K0's choice when it was last approved, until user mode was reached.
    pub pinned: Choice,
    /// What modules must choose: not known, or weak or strong.
    pub chosen: Option<Choice>,
    /// The kernel has freed its init text.
    pub freed: bool,
    /// The frame in which each page of a module's text was last executable at CPL 0, in the approval's order.
    pub last: [u8; PAGES],
}

/// A state of the whole machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What the rules remember.
    pub rules: Remembered,
    /// What each frame holds; [`crate::world::ANY`] where anybody may write.
    pub content: [Id; FRAMES],
    /// Each frame's rights in the nested tables.
    pub rights: [Right; FRAMES],
    /// The CPUs.
    pub cpus: [Cpu; CPUS],
    /// What the oracle remembers.
    pub ghost: Ghost,
    /// Frames, as bits, that have a second, writable alias; only where that makes a difference.
    pub aliased: u8,
}

impl State {
    /// The same machine with its free frames in a certain order: the rules and the hardware treat them alike, so states
    /// that differ by their order only are one.
    ///
    /// The CPUs, likewise.
    pub fn canonical(&self, first: usize, cpus: usize) -> Self {
        let mut this = self.with_frames_in_order(first);
        let swapped = State { cpus: [self.cpus[1], self.cpus[0]], ..*self }.with_frames_in_order(first);
        if cpus > 1 && swapped.cpus_in_order() < this.cpus_in_order() {
            this = swapped;
        }
        this
    }

    fn cpus_in_order(&self) -> impl Ord + use<> {
        self.cpus.map(|c| {
            let window = c.window.map(|w| (w.purpose as u8, w.view as u8, w.frames, w.trapped, w.closed));
            (c.user, c.view as u8, c.asid, c.patching, window, c.tlb, c.taken_back)
        })
    }

    fn with_frames_in_order(&self, first: usize) -> Self {
        let mut order: Vec<usize> = (first..FRAMES).collect();
        order.sort_by_cached_key(|f| self.description(*f));
        if order.is_sorted() {
            return *self;
        }
        let new = |f: u8| match (f as usize) < first || f == NONE {
            true => f,
            false => (first + order.iter().position(|o| *o == f as usize).expect("a permutation")) as u8,
        };
        let mut state = *self;
        for (i, old) in order.iter().enumerate() {
            let to = first + i;
            state.rules.frames[to] = self.rules.frames[*old];
            state.content[to] = self.content[*old];
            state.rights[to] = self.rights[*old];
            state.aliased = state.aliased & !(1 << to) | (self.aliased >> old & 1) << to;
            for (cpu, was) in state.cpus.iter_mut().zip(&self.cpus) {
                cpu.tlb.iter_mut().zip(&was.tlb).for_each(|(tlb, was)| tlb[to] = was[*old]);
            }
        }
        state.rules.places = self.rules.places.map(new);
        state.ghost.last = self.ghost.last.map(new);
        for cpu in &mut state.cpus {
            cpu.patching = new(cpu.patching);
            if let Some(window) = &mut cpu.window {
                window.frames = window.frames.map(new);
            }
        }
        state
    }

    /// All there is to say about a frame, wherever it is.
    pub fn description(&self, frame: usize) -> impl Ord + use<> {
        let here = |list: &[u8; PAGES]| {
            list.iter().enumerate().map(|(p, f)| ((*f as usize == frame) as u32) << p).sum::<u32>()
        };
        let places = (here(&self.rules.places), here(&self.ghost.last));
        let of = |cpu: &Cpu| {
            let window = cpu.window.map(|w| w.frames.map(|f| f as usize == frame));
            (cpu.tlb.map(|t| t[frame]), cpu.patching as usize == frame, window)
        };
        let cpus = self.cpus.each_ref().map(of);
        (self.rules.frames[frame], self.content[frame], self.rights[frame], places, cpus, self.aliased >> frame & 1)
    }
}

/// Every [`Rest`] there was, so that a state needs only its number.
#[derive(Default)]
pub struct Rests(RwLock<Vec<Rest>>);

impl Rests {
    /// Number of this one.
    pub fn number(&self, rest: Rest) -> u8 {
        let found = |list: &Vec<Rest>| list.iter().position(|r| *r == rest);
        let known = found(&self.0.read().expect("no thread has panicked"));
        let number = known.unwrap_or_else(|| {
            let mut list = self.0.write().expect("no thread has panicked");
            found(&list).unwrap_or_else(|| {
                list.push(rest.clone());
                list.len() - 1
            })
        });
        number.try_into().expect("few of them")
    }

    /// The one with this number.
    pub fn get(&self, number: u8) -> Rest {
        self.0.read().expect("no thread has panicked")[number as usize].clone()
    }
}
