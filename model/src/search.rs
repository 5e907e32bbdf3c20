//! Breadth first, every state once
//!
//! Level by level, so that the first counterexample is a shortest one; on several threads, each with a machine of its own.
use std::hash::{DefaultHasher, Hash, Hasher};
use std::thread;

use crate::chooser::Chooser;
use crate::machine::{Machine, Options};
use crate::state::{Rests, State};
use crate::world::World;

/// What came of it.
pub struct Outcome {
    /// States found.
    pub states: usize,
    /// Longest way to a state.
    pub depth: usize,
    /// Whether no state was left out.
    pub complete: bool,
    /// The first counterexample: the steps, and the property that is broken.
    pub found: Option<(Vec<String>, &'static str)>,
}

/// The states known, each with the one it was first reached from.
#[derive(Default)]
struct Known {
    states: Vec<State>,
    from: Vec<u32>,
    /// Open addressing: numbers of states, from 1.
    slots: Vec<u32>,
}

impl Known {
    fn hash(state: &State) -> usize {
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        hasher.finish() as usize
    }

    /// Number of the slot that holds the state, or would.
    fn slot(&self, state: &State) -> usize {
        let mut at = Self::hash(state) % self.slots.len();
        while self.slots[at] != 0 && self.states[self.slots[at] as usize - 1] != *state {
            at = (at + 1) % self.slots.len();
        }
        at
    }

    fn has(&self, state: &State) -> bool {
        self.slots[self.slot(state)] != 0
    }

    /// Adds a state that is new; whether it was.
    fn add(&mut self, state: State, from: u32) -> bool {
        if self.slots.len() < 2 * (self.states.len() + 1) {
            self.slots = vec![0; (4 * self.slots.len()).max(1 << 16)];
            for i in 0..self.states.len() {
                let at = self.slot(&self.states[i]);
                self.slots[at] = i as u32 + 1;
            }
        }
        let at = self.slot(&state);
        if self.slots[at] != 0 {
            return false;
        }
        self.states.push(state);
        self.from.push(from);
        self.slots[at] = self.states.len() as u32;
        true
    }
}

/// Explores a world; stops at the first counterexample, or when more than `most` states were found.
pub fn explore(world: &World, options: Options, threads: usize, most: usize) -> Outcome {
    let rests = Rests::default();
    let mut known = Known::default();
    let mut machines: Vec<Machine> = (0..threads).map(|_| Machine::new(world, &rests, options)).collect();
    let launch = machines[0].launch();
    known.add(launch.canonical(world.free()), 0);
    let (mut first, mut depth) = (0, 0);
    while first < known.states.len() {
        let level = first..known.states.len();
        if known.states.len() > most {
            return Outcome { states: known.states.len(), depth, complete: false, found: None };
        }
        let results: Vec<Part> = thread::scope(|scope| {
            let known = &known;
            let work = machines.iter_mut().enumerate().map(|(number, machine)| {
                let part = level.clone().skip(number).step_by(threads);
                scope.spawn(move || expand(machine, known, part))
            });
            work.collect::<Vec<_>>().into_iter().map(|t| t.join().expect("a machine that does not panic")).collect()
        });
        if let Some((from, wrong)) = results.iter().filter_map(|r| r.broken).min() {
            let mut steps = story(world, &rests, options, &known, from);
            steps.push(last_story(world, &rests, options, &known.states[from as usize]));
            let found = Some((steps, wrong));
            return Outcome { states: known.states.len(), depth, complete: false, found };
        }
        first = level.end;
        let mut new: Vec<_> = results.into_iter().flat_map(|r| r.new).collect();
        new.sort_by_key(|(_, from)| *from);
        for (state, from) in new {
            known.add(state, from);
        }
        depth += 1;
        if std::env::var_os("MODEL_PROGRESS").is_some() {
            eprintln!("{depth}: {} states", known.states.len());
        }
    }
    Outcome { states: known.states.len(), depth, complete: true, found: None }
}

/// What one thread finds.
struct Part {
    new: Vec<(State, u32)>,
    broken: Option<(u32, &'static str)>,
}

fn expand(machine: &mut Machine, known: &Known, part: impl Iterator<Item = usize>) -> Part {
    machine.leave_out();
    let free = machine.world.free();
    let mut fresh = Known::default();
    for from in part {
        let chooser = Chooser::default();
        loop {
            match machine.step(&known.states[from], &chooser) {
                Some(Ok(state)) => {
                    let state = state.canonical(free);
                    if !known.has(&state) {
                        fresh.add(state, from as u32);
                    }
                }
                Some(Err(wrong)) => return Part { new: Vec::new(), broken: Some((from as u32, wrong)) },
                None => {}
            }
            if !chooser.advance() {
                break;
            }
        }
    }
    Part { new: fresh.states.into_iter().zip(fresh.from).collect(), broken: None }
}

/// The steps that lead to a state.
fn story(world: &World, rests: &Rests, options: Options, known: &Known, mut to: u32) -> Vec<String> {
    let mut machine = Machine::new(world, rests, options);
    let mut steps = Vec::new();
    while to != 0 {
        let from = known.from[to as usize];
        let (before, after) = (&known.states[from as usize], &known.states[to as usize]);
        let chooser = Chooser::telling();
        loop {
            let next = machine.step(before, &chooser);
            if matches!(next, Some(Ok(state)) if state.canonical(world.free()) == *after) {
                steps.push(chooser.story());
                break;
            }
            assert!(chooser.advance(), "a state that was reached can be reached again");
        }
        to = from;
    }
    steps.reverse();
    steps
}

/// The step that breaks a property.
fn last_story(world: &World, rests: &Rests, options: Options, from: &State) -> String {
    let mut machine = Machine::new(world, rests, options);
    let chooser = Chooser::telling();
    while !matches!(machine.step(from, &chooser), Some(Err(_))) {
        assert!(chooser.advance(), "a counterexample that was found can be found again");
    }
    chooser.story()
}
