//! The hardware layer in small: views, windows and the TLB as its worst case, around the real rules
//!
//! What is here mirrors `hypervisor/src/{nested,switch,window,vcpu}.rs` and `exit/{fault,segment,exception}.rs`, function by
//! function under the same names.
//!
//! The guest's own page tables are no part of the state. The adversary may rewrite them between any two steps, unseen
//! and at no cost, so each step chooses where its virtual address leads; and whatever frame a translation could have led
//! to with some right since the last flush that reaches its ASID, it may still lead to with that right, at any virtual
//! page ([`Cpu::tlb`]).
//!
//! What a writable frame holds is no part of the state either, for the same reason: it is chosen when it is looked at.
use secvisor_rules::{Event, Frame};

use crate::chooser::Chooser;
use crate::machine::{Ending, Machine};
use crate::state::{ASIDS, Cpu, NONE, Purpose, Right, SCRATCH, State, View, W, Window, X};
use crate::switch::Part;
use crate::world::{ANY, DEVICE, FRAMES, HYPERVISOR};

const KERNEL_ASID: usize = 0;

/// A step being made.
pub struct Step<'s, 'w> {
    pub machine: &'s mut Machine<'w>,
    pub chooser: &'s Chooser,
    pub state: State,
    pub cpu: usize,
    /// The TLB is to be flushed before the guest runs.
    pub flush: bool,
    /// The property that this step has broken.
    pub wrong: Option<&'static str>,
}

impl Step<'_, '_> {
    pub fn cpu(&mut self) -> &mut Cpu {
        &mut self.state.cpus[self.cpu]
    }

    pub fn has(&self, part: Part) -> bool {
        self.machine.options.has(part)
    }

    /// What every VMRUN needs. The guest runs, and uses whatever it can.
    pub fn before_entry(&mut self) {
        if std::mem::take(&mut self.flush) {
            self.flush_cpu(self.cpu);
        }
        for cpu in 0..self.machine.options.cpus {
            self.machine.load_tlb(&mut self.state, cpu);
        }
    }

    fn flush_cpu(&mut self, cpu: usize) {
        let all_asids = self.has(Part::FlushAllAsids);
        let cpu = &mut self.state.cpus[cpu];
        let current = cpu.current_asid();
        for asid in (0..ASIDS).filter(|asid| all_asids || *asid == current) {
            cpu.tlb[asid] = [0; FRAMES];
            cpu.taken_back &= !(1 << asid);
        }
    }

    /// The tables have changed: what the other CPUs do before that counts.
    fn others_hear(&mut self, narrowed: bool) {
        let me = self.cpu;
        for cpu in (0..self.machine.options.cpus).filter(|cpu| *cpu != me) {
            if narrowed && self.has(Part::FlushRights) && self.has(Part::FlushAllCpus) {
                self.flush_cpu(cpu);
            }
            if self.has(Part::CloseWindows)
                && let Some(window) = &mut self.state.cpus[cpu].window
            {
                window.closed = true;
            }
        }
    }

    /// One event for the rules. What comes of it may depend on what the adversary does meanwhile, and on what memory
    /// holds that is looked at: each different end is tried.
    pub fn rules(&mut self, event: Event) -> Ending {
        let open = self.open_elsewhere();
        let ends = self.machine.ends(&self.state, open, event, self.chooser.is_telling());
        let end = &ends[self.chooser.choose(ends.len())];
        if !end.story.is_empty() {
            self.chooser.tell(|| end.story.clone());
        }
        (self.state.rules, self.state.content, self.state.rights) = (end.rules, end.content, end.rights);
        let (narrowed, ending) = (end.narrowed, end.ending);
        self.flush |= end.flush && self.machine.options.has(Part::FlushRights);
        self.wrong = self.wrong.or(end.wrong);
        if end.flush {
            self.others_hear(narrowed);
        }
        self.remember();
        self.forget_writable();
        ending
    }

    /// Frames, as bits, that a CPU may write in its window.
    fn open(&self, cpus: impl Fn(usize) -> bool) -> u8 {
        let cpus = self.state.cpus[..self.machine.options.cpus].iter().enumerate().filter(|(i, _)| cpus(*i));
        let windows = cpus.filter_map(|(_, cpu)| cpu.window.filter(|w| !w.closed && w.purpose != Purpose::Absent));
        let frames = windows.flat_map(|w| w.frames).filter(|f| *f != NONE);
        frames.fold(0, |all, frame| all | 1 << frame)
    }

    fn open_elsewhere(&self) -> u8 {
        self.open(|cpu| cpu != self.cpu)
    }

    /// What anybody may write holds anything.
    pub fn forget_writable(&mut self) {
        let open = self.open(|_| true);
        for frame in 0..FRAMES {
            let written = (self.state.aliased | open) >> frame & 1 != 0;
            if self.state.rights[frame] == Right::Data || frame == DEVICE || written {
                self.state.content[frame] = ANY;
            }
        }
    }

    /// A fetch at CPL 0 from a frame that is not executable there.
    pub fn kernel_fetch(&mut self, frame: usize, va: u64) {
        self.flush = true;
        let patching = std::mem::replace(&mut self.cpu().patching, NONE) == frame as u8;
        let was = self.state.rights[frame];
        let tries = (self.machine.options.cpus > 1 && self.chooser.choose(2) == 1).then_some(0);
        match self.rules(Event::KernelFetch { frame: Frame(frame as u64), va, patching, tries }) {
            Ending::Step => {
                self.chooser.tell(|| "which is stepped over".into());
                self.judge_step(frame, va);
                assert!(self.open_window(Purpose::SelfPatch, [frame as u8, NONE], false));
            }
            Ending::Resume => {
                self.chooser.tell(|| "which is approved".into());
                if was != Right::Executable {
                    self.judge_place(frame, va);
                }
            }
            Ending::Refuse => self.chooser.tell(|| "which is refused".into()),
            Ending::Wait => self.chooser.tell(|| "which is waited for".into()),
        }
    }

    /// A write to an approved frame. `from_within`: the instruction lies in that frame; `delivering`: an event is being
    /// delivered to a stack there.
    pub fn data_access(&mut self, frame: usize, from_within: bool, delivering: bool) {
        let writes_itself = from_within && self.cpu().view == View::Kernel && !self.cpu().user;
        let from_within = writes_itself && !(delivering && self.has(Part::WindowEvent));
        if self.rules(Event::Write { frame: Frame(frame as u64), from_within }) == Ending::Step {
            assert!(self.open_window(Purpose::SelfPatch, [frame as u8, NONE], delivering));
        }
        if delivering {
            self.redeliver();
        }
    }

    /// The event is delivered after all: to CPL 0, which clears the trap flag.
    pub fn redeliver(&mut self) {
        self.cpu().user = false;
        if let Some(window) = &mut self.cpu().window {
            window.trapped = false;
        }
    }

    /// An approved frame was, or is about to be, written to.
    pub fn patched(&mut self, frame: u8) {
        if frame != NONE {
            let _resume = self.rules(Event::Write { frame: Frame(frame as u64), from_within: false });
        }
    }

    /// Turns the user view on. CPL is 3.
    pub fn enter_user(&mut self) {
        if !self.state.ghost.booted {
            if self.has(Part::FirstUser) {
                let _resume = self.rules(Event::FirstUser);
            }
            self.first_user();
        }
        self.user_controls();
    }

    /// The user view's controls.
    pub fn user_controls(&mut self) {
        let (fresh, asids) = (self.has(Part::FreshAsid), self.machine.world.asids);
        let cpu = self.cpu();
        cpu.view = View::User;
        if fresh || cpu.asid == 0 {
            cpu.asid += 1;
        }
        if cpu.asid as usize == asids {
            cpu.asid = 1;
            self.flush |= self.has(Part::FlushWrap);
        }
        // Seen only where the flush before entry does not reach it.
        let cpu = self.cpu();
        let stale = cpu.taken_back >> cpu.asid & 1 != 0;
        if stale && !self.flush {
            self.wrong = Some("user mode uses a translation that the guest has invalidated");
        }
    }

    /// Turns the kernel view on.
    pub fn enter_kernel(&mut self) {
        self.cpu().view = View::Kernel;
        self.cpu().user = false;
    }

    /// Opens a window, but not if an event is being delivered: it would run with the window's rights.
    pub fn open_window(&mut self, purpose: Purpose, frames: [u8; 2], delivering: bool) -> bool {
        if delivering && self.has(Part::WindowEvent) {
            return false;
        }
        self.flush = true;
        let view = self.cpu().view;
        self.cpu().window = Some(Window { purpose, view, frames, trapped: true, closed: false });
        true
    }

    /// Closes the window. `stepped`: its instruction has been completed, no other event has come.
    pub fn close_window(&mut self, stepped: bool) {
        let window = self.cpu().window.take().expect("a window is open");
        self.flush |= self.has(Part::FlushWindow);
        if window.purpose == Purpose::SelfPatch {
            self.cpu().patching = window.frames[0];
            self.patched(window.frames[0]);
        }
        match window.purpose {
            Purpose::Segment if self.cpu().user && stepped => self.enter_user(),
            Purpose::Segment => self.cpu().view = View::Kernel,
            _ if window.view == View::User => self.user_controls(),
            _ => self.cpu().view = View::Kernel,
        }
        if !stepped {
            // Another exit: in the kernel view the guest's own business, in the user view mediated.
            self.enter_kernel();
        }
    }

    /// A segment load of a user program, whose instruction lies in these frames by the guest's tables.
    pub fn segment_load(&mut self, frames: [u8; 2]) {
        let data = |f: &u8| {
            let frame = *f as usize;
            let ram = *f != NONE && frame != HYPERVISOR && frame != DEVICE;
            ram && self.state.rights[frame] == Right::Data || *f != NONE && !self.has(Part::WindowData)
        };
        let [first, last] = frames.map(|f| if data(&f) { f } else { NONE });
        if first == NONE {
            self.enter_kernel();
            return;
        }
        self.cpu().view = View::Kernel;
        assert!(self.open_window(Purpose::Segment, [first, last], false));
    }
}

impl Machine<'_> {
    /// Rights that a view's tables give on a frame.
    pub fn nested(&self, state: &State, cpu: usize, view: View, frame: usize) -> u8 {
        let options = &self.options;
        if let Some(window) = state.cpus[cpu].window
            && window.view == view
            && !window.closed
            && window.frames.contains(&(frame as u8))
        {
            return match window.purpose {
                Purpose::Absent if options.has(Part::Scratch) => SCRATCH,
                Purpose::Absent => W,
                Purpose::SelfPatch | Purpose::Segment => W | X,
            };
        }
        if frame == HYPERVISOR && options.has(Part::HypervisorMarked) {
            return if options.has(Part::HypervisorAbsent) { 0 } else { W };
        }
        if frame == DEVICE && options.has(Part::DeviceMarked) {
            return W;
        }
        let alias = if state.aliased >> frame & 1 != 0 { W } else { 0 };
        let stale = if options.has(Part::BothViews) { 0 } else { W | X };
        alias
            | match (state.rights[frame], view) {
                (Right::Data, View::Kernel) => W | if options.has(Part::DataNoExecute) { 0 } else { X },
                (Right::Data, View::User) => W | X,
                (Right::Executable, View::Kernel) => X,
                (Right::Frozen, View::Kernel) => 0,
                (Right::Frozen | Right::Executable, View::User) => stale,
            }
    }

    /// The worst case: every translation that can be used is.
    pub fn load_tlb(&self, state: &mut State, cpu: usize) {
        let view = state.cpus[cpu].view;
        for frame in 0..FRAMES {
            let right = self.nested(state, cpu, view, frame);
            let cpu = &mut state.cpus[cpu];
            cpu.tlb[cpu.current_asid()][frame] |= right;
        }
    }
}

impl Cpu {
    /// The ASID in use.
    pub fn current_asid(&self) -> usize {
        match self.view {
            View::Kernel => KERNEL_ASID,
            View::User => self.asid as usize,
        }
    }
}
