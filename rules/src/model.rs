//! For the model only: stop the rules in any state and go on from it
use std::vec::Vec;

use crate::choice::Choices;
use crate::{Frame, FrameState, Memory, Rules};

/// What the rules remember besides the memory they were given; how often what happened does not count.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Rest {
    choices: Choices,
    booted: bool,
    init_approved: u32,
    init_over: bool,
}

impl<'a> Rules<'a> {
    /// What they remember.
    pub fn rest(&self) -> Rest {
        let Self { booted, init_approved, init_over, .. } = *self;
        Rest { choices: self.choices.clone(), booted, init_approved, init_over }
    }

    /// Goes on where others stopped, with memory as they left it.
    pub fn resume(memory: Memory<'a>, kernel_frame: Frame, rest: &Rest) -> Self {
        let (places, vars) = (Vec::from(&*memory.places), Vec::from(&*memory.vars));
        let mut rules = Self::new(memory, kernel_frame);
        rules.places.copy_from_slice(&places);
        rules.vars.copy_from_slice(&vars);
        rules.choices = rest.choices.clone();
        (rules.booted, rules.init_approved, rules.init_over) = (rest.booted, rest.init_approved, rest.init_over);
        let frames = (0..rules.frames.len() as u64).map(Frame);
        rules.counters.approved =
            frames.filter(|f| matches!(rules.frames.get(*f), FrameState::Approved(_))).count() as u64;
        // Nobody reads the reports: what they name need not be looked for.
        rules.counters.refused = u64::MAX / 2;
        rules
    }
}
