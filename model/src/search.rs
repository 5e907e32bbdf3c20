//! Breadth first, every state once
//!
//! Level by level, so that the first counterexample is a shortest one; on several threads, each with a machine of its own.
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::thread;

use crate::chooser::{Answers, Chooser};
use crate::machine::{Machine, Options};
use crate::state::{Rests, State};
use crate::world::World;

/// How a property is broken, step by step from launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counterexample {
    /// The machine on which it happens.
    pub world: &'static str,
    /// What happens.
    pub steps: Vec<String>,
    /// The property that the last step breaks.
    pub property: &'static str,
    /// The same steps as the answers to what each step asks.
    pub answers: Vec<Answers>,
}

/// What one more level came to.
pub enum Progress {
    /// There are new states.
    Open,
    /// There are none: all were seen, and no property is broken.
    Complete,
    /// A property is broken.
    Broken(Counterexample),
}

/// Fewest states for which it is worth the while to start a thread.
const MANY: usize = 64;

/// An exploration under way.
pub struct Search<'w> {
    world: &'w World,
    options: Options,
    rests: Arc<Rests>,
    machines: Vec<Machine<'w>>,
    known: Known,
    /// First state whose steps have not been tried.
    next: usize,
    depth: usize,
}

impl<'w> Search<'w> {
    /// A machine that has just been launched.
    pub fn new(world: &'w World, options: Options, threads: usize) -> Self {
        let rests = Arc::new(Rests::default());
        let mut machines: Vec<Machine> =
            (0..threads.max(1)).map(|_| Machine::new(world, rests.clone(), options)).collect();
        let mut known = Known::default();
        known.add(machines[0].launch().canonical(world.free(), options.cpus), 0);
        Self { world, options, rests, machines, known, next: 0, depth: 0 }
    }

    /// Number of states found so far.
    pub fn states(&self) -> usize {
        self.known.states.len()
    }

    /// Longest shortest way to a state.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Tries every step from every state of the last level.
    pub fn level(&mut self) -> Progress {
        let level = self.next..self.known.states.len();
        let threads = if level.len() < MANY { 1 } else { self.machines.len() };
        let (known, machines) = (&self.known, &mut self.machines[..threads]);
        let results: Vec<Part> = thread::scope(|scope| {
            let work = machines.iter_mut().enumerate().map(|(number, machine)| {
                let part = level.clone().skip(number).step_by(threads);
                scope.spawn(move || expand(machine, known, part))
            });
            work.collect::<Vec<_>>().into_iter().map(|t| t.join().expect("a machine that does not panic")).collect()
        });
        if let Some((from, property)) = results.iter().filter_map(|r| r.broken).min() {
            return Progress::Broken(self.tell(from, property));
        }
        self.next = level.end;
        let mut new: Vec<_> = results.into_iter().flat_map(|r| r.new).collect();
        new.sort_by_key(|(_, from)| *from);
        for (state, from) in new {
            self.known.add(state, from);
        }
        if self.next == self.known.states.len() {
            return Progress::Complete;
        }
        self.depth += 1;
        Progress::Open
    }

    /// The steps that lead to a state, and the one that breaks a property there. Frames keep their names throughout.
    fn tell(&self, to: u32, property: &'static str) -> Counterexample {
        let mut path = Vec::new();
        let mut at = to;
        while at != 0 {
            path.push(at);
            at = self.known.from[at as usize];
        }
        let mut machine = Machine::new(self.world, self.rests.clone(), self.options);
        let mut state = machine.launch();
        let mut told = Counterexample { world: self.world.name, steps: Vec::new(), property, answers: Vec::new() };
        for target in path.into_iter().rev().map(Some).chain([None]) {
            let chooser = Chooser::telling();
            loop {
                match (machine.step(&state, &chooser), target) {
                    (Some(Ok(next)), Some(target))
                        if next.canonical(self.world.free(), self.options.cpus)
                            == self.known.states[target as usize] =>
                    {
                        state = next;
                        break;
                    }
                    (Some(Err(broken)), None) if broken == property => break,
                    _ => assert!(chooser.advance(), "a step that was made can be made again"),
                }
            }
            told.steps.push(chooser.story());
            told.answers.push(chooser.answers());
        }
        told
    }
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

    /// Adds a state if it is new.
    fn add(&mut self, state: State, from: u32) {
        if self.slots.len() < 2 * (self.states.len() + 1) {
            self.slots = vec![0; (4 * self.slots.len()).max(1 << 10)];
            for i in 0..self.states.len() {
                let at = self.slot(&self.states[i]);
                self.slots[at] = i as u32 + 1;
            }
        }
        let at = self.slot(&state);
        if self.slots[at] == 0 {
            self.states.push(state);
            self.from.push(from);
            self.slots[at] = self.states.len() as u32;
        }
    }
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
                    let state = state.canonical(free, machine.options.cpus);
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

/// A shortest counterexample on any of the machines; none if there is none, however long it is looked for.
pub fn shortest(worlds: &[World], options: Options, threads: usize) -> Option<Counterexample> {
    let mut open: Vec<Search> = worlds.iter().map(|world| Search::new(world, options, threads)).collect();
    while !open.is_empty() {
        let mut still = Vec::new();
        for mut search in open {
            match search.level() {
                Progress::Open => still.push(search),
                Progress::Complete => {}
                Progress::Broken(found) => return Some(found),
            }
        }
        open = still;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::{self, Switch};

    fn without(name: &str) -> Options {
        Options { cpus: 1, left_out: Some(switch::named(name).expect("a switch")) }
    }

    /// Makes the steps of a counterexample again, on a machine that has not seen them.
    fn replay(world: &World, options: Options, found: &Counterexample) -> Result<(), &'static str> {
        let mut machine = Machine::new(world, Arc::default(), options);
        let mut state = machine.launch();
        for answers in &found.answers {
            state = machine.step(&state, &Chooser::answering(answers.clone())).expect("a step that can be made")?;
        }
        Ok(())
    }

    #[test]
    fn counterexamples_replay() {
        let worlds = World::all();
        for name in ["approved-page-remapping", "writable-alias", "straddler", "pinned", "flush-wrap"] {
            let found = shortest(&worlds[..2], without(name), 1).expect(name);
            let world = worlds.iter().find(|w| w.name == found.world).expect("one of these");
            assert_eq!(replay(world, without(name), &found), Err(found.property), "{name}");
            assert_eq!(found.steps.len(), found.answers.len());
            assert!(found.steps.iter().all(|s| !s.is_empty()), "{found:?}");
        }
    }

    #[test]
    fn nothing_is_broken_while_nothing_is_left_out() {
        let world = World::views();
        let mut search = Search::new(&world, Options { cpus: 1, left_out: None }, 2);
        loop {
            match search.level() {
                Progress::Open => {}
                Progress::Complete => break,
                Progress::Broken(found) => panic!("{found:?}"),
            }
        }
        assert!(search.states() > 1000 && search.depth() > 10);
    }

    #[test]
    fn the_number_of_threads_does_not_matter() {
        let world = World::views();
        let options = Options { cpus: 1, left_out: Some(Switch::QuietDevices) };
        let found = |threads| shortest(std::slice::from_ref(&world), options, threads);
        assert_eq!(found(1), found(3));
    }
}
