//! The machine that is explored: how it is launched, one step of it, and every way the rules may end an event
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use secvisor_approval::PAGE;
use secvisor_approval::pages::Pages;
use secvisor_rules::{Event, Frame, FrameTable, Memory, NO_FRAME, Rules, Verdict, check};

use crate::bytes::{Choice, PAGES, VARS};
use crate::chooser::Chooser;
use crate::ram::Ram;
use crate::state::{ASIDS, CPUS, Cpu, Ghost, NONE, Remembered, Rests, Right, State, View};
use crate::switch::{Part, Switch};
use crate::vcpu::Step;
use crate::world::{ANY, DEVICE, FRAMES, HYPERVISOR, Id, KERNEL, World};

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
    code: Vec<u8>,
    /// What the pages hold.
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
            Event::KernelFetch { frame, va, patching, tries } => (frame.0, va, patching, tries).hash(hasher),
            Event::Write { frame, from_within } => (frame.0, from_within).hash(hasher),
            Event::FirstUser => {}
        }
    }
}

/// How an event ends.
pub struct End {
    pub rules: Remembered,
    pub content: [Id; FRAMES],
    pub rights: [Right; FRAMES],
    pub flush: bool,
    pub narrowed: bool,
    pub wrong: Option<&'static str>,
    pub ending: Ending,
    pub story: String,
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
        let this = Self { world, options, rests, code: world.code.clone(), loaded, known: HashMap::new() };
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
            pages: Pages::new(&world.view, &mut self.code),
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

    /// Every different end of an event. `open`: frames, as bits, that another CPU may write in a window.
    pub fn ends(&mut self, state: &State, open: u8, event: Event, telling: bool) -> Arc<[End]> {
        let State { rules, content, rights, aliased, .. } = *state;
        let key = (Key { rules, content, rights, open, event }, aliased);
        if let Some(ends) = self.known.get(&key) {
            return ends.clone();
        }
        let ends = self.try_all(state, open, event, telling);
        if self.known.len() == MOST_KNOWN {
            self.known.clear();
        }
        self.known.insert(key, ends.clone());
        ends
    }

    /// The same, without looking whether it is known.
    fn try_all(&mut self, state: &State, open: u8, event: Event, telling: bool) -> Arc<[End]> {
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
        let mut pages = Pages::new(&world.view, &mut self.code);
        for (page, id) in remembered.pages[..count].iter().enumerate() {
            if self.loaded[page] != *id {
                pages.keep(page as u32, world.bytes(*id));
                self.loaded[page] = *id;
            }
        }
        let mut places = remembered.places.map(|f| if f == NONE { NO_FRAME } else { f as u32 });
        let mut ram = Ram::new(world, self.options, chooser, state, open, event);
        let memory = Memory {
            view: world.view,
            pages: Pages::new(&world.view, &mut self.code),
            frames: FrameTable::resume(&mut remembered.frames),
            places: &mut places[..count],
            vars: &mut remembered.vars[..world.view.vars.len()],
        };
        let mut rules = Rules::resume(memory, Frame(KERNEL as u64), &self.rests.get(remembered.rest));
        let ending = match rules.step(&mut ram, event) {
            Verdict::Resume | Verdict::Restored(_) => Ending::Resume,
            Verdict::Step => Ending::Step,
            Verdict::Refuse(_) => Ending::Refuse,
            Verdict::Wait => Ending::Wait,
        };
        remembered.rest = self.rests.number(rules.rest());
        remembered.places = places.map(small);
        let pages = Pages::new(&world.view, &mut self.code);
        let mut room = [0; PAGE];
        // A write verifies nothing.
        for page in (0..count).filter(|_| !matches!(event, Event::Write { .. })) {
            let bytes = pages.get(page as u32, &mut room).expect("a sound approval");
            if bytes != world.bytes(self.loaded[page]) {
                self.loaded[page] = world.id(bytes);
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
}

impl Options {
    /// Whether a part of the hardware layer is there.
    pub fn has(&self, part: Part) -> bool {
        self.left_out != Some(Switch::Part(part))
    }
}

fn small(frame: u32) -> u8 {
    if frame == NO_FRAME { NONE } else { frame as u8 }
}
