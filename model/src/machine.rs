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
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use secvisor_approval::PageBytes;
use secvisor_rules::{
    Access, Event, Frame, FrameTable, Machine as Hardware, Memory, NO_FRAME, OutOfTables, Rules, Verdict, check,
};

use crate::bytes::{Choice, PAGES, Page, VARS};
use crate::chooser::Chooser;
use crate::state::{
    ASIDS, CPUS, Cpu, Ghost, NONE, Purpose, Remembered, Rests, Right, SCRATCH, State, View, W, Window, X,
};
use crate::switch::{Part, Switch};
use crate::world::{ANY, DEVICE, FRAMES, HYPERVISOR, Id, KERNEL, World};

const KERNEL_ASID: usize = 0;

/// What is explored.
#[derive(Clone, Copy)]
pub struct Options {
    /// Number of CPUs.
    pub cpus: usize,
    /// What is left out.
    pub left_out: Option<Switch>,
}

/// A machine, and the memory its rules work in.
pub struct Machine<'w> {
    pub world: &'w World,
    pub options: Options,
    rests: Arc<Rests>,
    pages: Vec<PageBytes>,
    /// What `pages` hold.
    loaded: Vec<Id>,
    /// How events ended that came before.
    known: HashMap<(Key, u8), Arc<[End]>>,
}

/// Most events remembered.
const MOST_KNOWN: usize = 1 << 20;

/// All that an event's end depends on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    rules: Remembered,
    content: [Id; FRAMES],
    rights: [Right; FRAMES],
    /// Frames, as bits, that another CPU may write in a window.
    open: u8,
    event: Event,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.rules, self.content, self.rights, self.open).hash(hasher);
        match self.event {
            Event::KernelFetch { frame, va, patching, patience } => (frame.0, va, patching, patience).hash(hasher),
            Event::Write { frame, from_within } => (frame.0, from_within).hash(hasher),
            Event::FirstUser => {}
        }
    }
}

/// How an event ends.
struct End {
    rules: Remembered,
    content: [Id; FRAMES],
    rights: [Right; FRAMES],
    flush: bool,
    narrowed: bool,
    wrong: Option<&'static str>,
    ending: Ending,
    story: String,
}

impl End {
    fn same(&self, other: &Self) -> bool {
        let all = |e: &Self| (e.rules, e.content, e.rights, e.flush, e.narrowed, e.wrong, e.ending);
        all(self) == all(other)
    }
}

/// What a verdict says, proofs aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest goes on.
    Resume,
    /// One instruction runs.
    Step,
    /// The guest is refused.
    Refuse,
    /// The guest tries again.
    Wait,
}

impl<'w> Machine<'w> {
    /// A machine for this thread.
    pub fn new(world: &'w World, rests: Arc<Rests>, options: Options) -> Self {
        let loaded: Vec<Id> = (0..world.pages.len()).map(|p| world.reference(p)).collect();
        let pages = loaded.iter().map(|id| *world.bytes(*id)).collect();
        let this = Self { world, options, rests, pages, loaded, known: HashMap::new() };
        this.leave_out();
        this
    }

    /// Leaves out what is to be left out, on this thread.
    pub fn leave_out(&self) {
        check::leave_out(match self.options.left_out {
            Some(Switch::Rule(check)) => Some(check),
            _ => None,
        });
    }

    /// The machine as SecVisor leaves it to Linux.
    pub fn launch(&mut self) -> State {
        let world = self.world;
        let mut entries = [0; FRAMES];
        let (mut places, mut vars) = ([NO_FRAME; PAGES], [0; VARS]);
        let mut frames = FrameTable::new(&mut entries);
        frames.add_ram(KERNEL as u64..FRAMES as u64);
        if self.options.has(Part::HypervisorMarked) {
            frames.add_hypervisor(HYPERVISOR as u64..HYPERVISOR as u64 + 1);
        } else {
            frames.add_ram(HYPERVISOR as u64..HYPERVISOR as u64 + 1);
        }
        if !self.options.has(Part::DeviceMarked) {
            frames.add_ram(DEVICE as u64..DEVICE as u64 + 1);
        }
        let memory = Memory {
            view: world.view,
            pages: &mut self.pages,
            frames,
            places: &mut places[..world.pages.len()],
            vars: &mut vars[..world.view.vars.len()],
        };
        let mut rules = Rules::new(memory, Frame(KERNEL as u64));
        let (mut content, mut rights) = ([ANY; FRAMES], [Right::Data; FRAMES]);
        for frame in KERNEL..world.free() {
            let _proof = rules.loaded(Frame(frame as u64)).expect("a frame of the kernel's code");
            (content[frame], rights[frame]) = (world.reference(frame - KERNEL), Right::Executable);
        }
        let rest = self.rests.number(rules.rest());
        let mut pages = [0; PAGES];
        pages[..self.loaded.len()].copy_from_slice(&self.loaded);
        let rules = Remembered { frames: entries, pages, places: places.map(small), vars, rest };
        let cpu = Cpu {
            user: false,
            view: View::Kernel,
            asid: 0,
            patching: NONE,
            window: None,
            tlb: [[0; FRAMES]; ASIDS],
            taken_back: 0,
        };
        let ghost = Ghost { booted: false, pinned: Choice::Linked, chosen: None, freed: false, last: [NONE; PAGES] };
        let mut state = State { rules, content, rights, cpus: [cpu; CPUS], ghost, aliased: 0 };
        for cpu in 0..self.options.cpus {
            self.load_tlb(&mut state, cpu);
        }
        state
    }

    /// One step of one CPU: `None` if there is no such step.
    pub fn step(&mut self, state: &State, chooser: &Chooser) -> Option<Result<State, &'static str>> {
        let cpu = chooser.choose(self.options.cpus);
        let mut step = Step { machine: self, chooser, state: *state, cpu, flush: false, wrong: None };
        step.adversary()?;
        let wrong = step.wrong;
        let state = step.state;
        Some(match wrong.or_else(|| self.judge(&state)) {
            None => Ok(state),
            Some(wrong) => Err(wrong),
        })
    }

    /// Every different end of an event.
    fn ends(&mut self, state: &State, open: u8, event: Event, telling: bool) -> Arc<[End]> {
        let chooser = if telling { Chooser::telling() } else { Chooser::default() };
        let mut ends: Vec<End> = Vec::new();
        loop {
            let end = self.decide(state, open, event, &chooser);
            if !ends.iter().any(|known| known.same(&end)) {
                ends.push(end);
            }
            if !chooser.advance() {
                return ends.into();
            }
        }
    }

    /// The rules decide an event, under these answers.
    fn decide(&mut self, state: &State, open: u8, event: Event, chooser: &Chooser) -> End {
        let (world, count) = (self.world, self.world.pages.len());
        let mut remembered = state.rules;
        for (page, id) in remembered.pages[..count].iter().enumerate() {
            if self.loaded[page] != *id {
                self.pages[page] = *world.bytes(*id);
                self.loaded[page] = *id;
            }
        }
        let mut places = remembered.places.map(|f| if f == NONE { NO_FRAME } else { f as u32 });
        let mut ram = Ram {
            world,
            chooser,
            options: self.options,
            state,
            event,
            content: state.content.map(Cell::new),
            rights: state.rights.map(Cell::new),
            shown: RefCell::default(),
            open: Cell::new(open),
            flush: Cell::new(false),
            narrowed: Cell::new(false),
            wrong: Cell::new(None),
        };
        let memory = Memory {
            view: world.view,
            pages: &mut self.pages,
            frames: FrameTable::resume(&mut remembered.frames),
            places: &mut places[..count],
            vars: &mut remembered.vars[..world.view.vars.len()],
        };
        let mut rules = Rules::resume(memory, Frame(KERNEL as u64), &self.rests.get(remembered.rest));
        let ending = match rules.step(&mut ram, event) {
            Verdict::Resume | Verdict::Restored(_) => Ending::Resume,
            Verdict::Step(_) => Ending::Step,
            Verdict::Refuse(_) => Ending::Refuse,
            Verdict::Wait => Ending::Wait,
        };
        remembered.rest = self.rests.number(rules.rest());
        remembered.places = places.map(small);
        // A write verifies nothing.
        for page in (0..count).filter(|_| !matches!(event, Event::Write { .. })) {
            if self.pages[page] != *world.bytes(self.loaded[page]) {
                self.loaded[page] = world.id(&self.pages[page]);
            }
        }
        remembered.pages[..count].copy_from_slice(&self.loaded);
        let rights = ram.rights.map(Cell::into_inner);
        let mut content = ram.content.map(Cell::into_inner);
        for frame in 0..FRAMES {
            // Who asks again may be told something else.
            if rights[frame] == Right::Data {
                content[frame] = ANY;
            }
        }
        let (flush, narrowed, wrong) = (ram.flush.get(), ram.narrowed.get(), ram.wrong.get());
        End { rules: remembered, content, rights, flush, narrowed, wrong, ending, story: chooser.story() }
    }

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
    fn load_tlb(&self, state: &mut State, cpu: usize) {
        let view = state.cpus[cpu].view;
        for frame in 0..FRAMES {
            let right = self.nested(state, cpu, view, frame);
            let cpu = &mut state.cpus[cpu];
            cpu.tlb[cpu.current_asid()][frame] |= right;
        }
    }
}

impl Options {
    /// Whether a part of the hardware layer is there.
    pub fn has(&self, part: Part) -> bool {
        self.left_out != Some(Switch::Part(part))
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

fn small(frame: u32) -> u8 {
    if frame == NO_FRAME { NONE } else { frame as u8 }
}

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
        let State { rules, content, rights, .. } = self.state;
        let key = (Key { rules, content, rights, open, event }, self.state.aliased);
        let ends = match self.machine.known.get(&key) {
            Some(ends) => ends.clone(),
            None => {
                let ends = self.machine.ends(&self.state, open, event, self.chooser.is_telling());
                if self.machine.known.len() == MOST_KNOWN {
                    self.machine.known.clear();
                }
                self.machine.known.insert(key, ends.clone());
                ends
            }
        };
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
        let patience = self.machine.options.cpus > 1 && self.chooser.choose(2) == 1;
        match self.rules(Event::KernelFetch { frame: Frame(frame as u64), va, patching, patience }) {
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

/// The machine the rules see.
struct Ram<'a> {
    world: &'a World,
    chooser: &'a Chooser,
    options: Options,
    /// As it was when the event came.
    state: &'a State,
    event: Event,
    content: [Cell<Id>; FRAMES],
    rights: [Cell<Right>; FRAMES],
    /// What the guest's tables show just now, as far as it was asked for.
    shown: RefCell<Vec<(u64, Option<Frame>)>>,
    open: Cell<u8>,
    flush: Cell<bool>,
    narrowed: Cell<bool>,
    wrong: Cell<Option<&'static str>>,
}

impl Ram<'_> {
    fn break_property(&self, what: &'static str) {
        self.wrong.set(self.wrong.get().or(Some(what)));
    }
}

impl Hardware for Ram<'_> {
    fn page(&self, frame: Frame) -> &PageBytes {
        let frame = frame.0 as usize;
        let outside = frame == HYPERVISOR || frame == DEVICE && self.options.has(Part::DeviceMarked);
        if outside {
            self.break_property("the rules read memory that is not the guest's");
        }
        if self.content[frame].get() == ANY {
            let id = match self.event {
                Event::KernelFetch { frame: fetched, .. } if fetched.0 as usize != frame => {
                    self.chooser.among(&self.world.beside)
                }
                _ => self.chooser.among(&self.world.options[frame]),
            };
            self.chooser.tell(|| format!("{} holds {}", self.world.frame_name(frame), self.world.content(id)));
            self.content[frame].set(id);
        }
        self.world.bytes(self.content[frame].get())
    }

    fn read(&self, frame: Frame, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.page(frame)[offset..][..bytes.len()]);
    }

    fn restore(&mut self, frame: Frame, bytes: &PageBytes) {
        let frame = frame.0 as usize;
        let (old, new) = (self.world.content(self.content[frame].get()), self.world.id(bytes));
        let page = self.world.content(new).page.expect("a page of the approval");
        if page == Page::Init {
            self.break_property("freed init text is put back");
        }
        let belongs = match self.world.number(page).filter(|_| page.module()) {
            Some(number) => old.page == Some(page) && page != Page::B && self.state.ghost.last[number] == frame as u8,
            None => self.world.kernel_page(frame) == Some(page),
        };
        if !belongs {
            self.break_property("a page is put back into a recycled frame");
        }
        self.chooser.tell(|| format!("{} is put back", self.world.content(new)));
        self.content[frame].set(new);
    }

    fn set_access(&mut self, frame: Frame, access: Access) -> Result<(), OutOfTables> {
        let frame = frame.0 as usize;
        let was = self.rights[frame].get();
        let right = match access {
            Access::Data => Right::Data,
            Access::Frozen => Right::Frozen,
            Access::Executable(_) => Right::Executable,
        };
        if right == Right::Frozen && was == Right::Data && self.chooser.choose(2) == 1 {
            self.chooser.tell(|| "the tables are full".into());
            return Err(OutOfTables);
        }
        if self.options.has(Part::CloseWindows) {
            self.open.set(0);
        }
        // Somebody else who can still write does so now: another CPU, or a device.
        let writable = was == Right::Data || (self.state.aliased | self.open.get()) >> frame & 1 != 0;
        if right == Right::Executable && writable && self.chooser.choose(2) == 1 {
            self.chooser.tell(|| format!("somebody else writes {} meanwhile", self.world.frame_name(frame)));
            self.break_property("bytes change between comparison and approval");
        }
        self.rights[frame].set(right);
        self.flush.set(true);
        // Frozen pages have no right that others lack, and gain some.
        self.narrowed.set(self.narrowed.get() || was != right && was != Right::Frozen);
        Ok(())
    }

    /// Whatever the adversary likes: nothing, code, the page itself, or memory that holds anything. Of several frames of
    /// the last kind one will do; what is not RAM is as good as nothing.
    fn translate(&self, va: u64) -> Option<Frame> {
        let mut shown = self.shown.borrow_mut();
        if let Some((_, known)) = shown.iter().find(|(known, _)| *known == va) {
            return *known;
        }
        let known = |f: &usize| self.content[*f].get() != ANY;
        let unknown = (KERNEL..FRAMES).rev().find(|f| !known(f));
        let frames: Vec<usize> = (KERNEL..FRAMES).filter(known).chain(unknown).collect();
        let frame = frames.get(self.chooser.choose(frames.len() + 1)).copied();
        if let Some(frame) = frame {
            self.chooser.tell(|| format!("beside it the guest's tables show {}", self.world.frame_name(frame)));
        }
        let frame = frame.map(|f| Frame(f as u64));
        shown.push((va, frame));
        frame
    }
}
