//! Every choice the adversary has, one after the other
//!
//! A step of the model asks "which of these n?" as often as it likes, and is run again and again until every answer has
//! been given in every combination. So a step reads like one story, and the list of answers names it.
use std::cell::{Cell, RefCell};

/// Answers, each with the number there were to choose from.
pub type Answers = Vec<(u16, u16)>;

/// Answers questions; see the module.
#[derive(Default)]
pub struct Chooser {
    answers: RefCell<Answers>,
    next: Cell<usize>,
    story: RefCell<Option<Vec<String>>>,
}

impl Chooser {
    /// One that keeps the story of each step, for people to read.
    pub fn telling() -> Self {
        Self { story: RefCell::new(Some(Vec::new())), ..Self::default() }
    }

    /// One that begins with these answers.
    #[cfg(test)]
    pub fn answering(answers: Answers) -> Self {
        Self { answers: RefCell::new(answers), ..Self::default() }
    }

    /// The answers given since the last [`Self::advance`], each with the number there were to choose from.
    pub fn answers(&self) -> Answers {
        self.answers.borrow().clone()
    }

    /// One of `n` numbers, from 0.
    pub fn choose(&self, n: usize) -> usize {
        let n = u16::try_from(n).expect("few choices");
        assert!(n > 0, "nothing to choose from");
        let (mut answers, at) = (self.answers.borrow_mut(), self.next.get());
        self.next.set(at + 1);
        if at == answers.len() {
            answers.push((0, n));
        }
        let (answer, of) = answers[at];
        assert_eq!(of, n, "the same questions in the same order");
        answer as usize
    }

    /// One of these.
    pub fn among<T: Copy>(&self, list: &[T]) -> T {
        list[self.choose(list.len())]
    }

    /// Goes on to the next combination of answers; false if that was the last.
    pub fn advance(&self) -> bool {
        self.next.set(0);
        if let Some(story) = &mut *self.story.borrow_mut() {
            story.clear();
        }
        let mut answers = self.answers.borrow_mut();
        while let Some((answer, of)) = answers.pop() {
            if answer + 1 < of {
                answers.push((answer + 1, of));
                return true;
            }
        }
        false
    }

    /// Whether somebody reads the story.
    pub fn is_telling(&self) -> bool {
        self.story.borrow().is_some()
    }

    /// Adds to the story, if somebody reads it.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        if let Some(story) = &mut *self.story.borrow_mut() {
            story.push(what());
        }
    }

    /// The story of the step just made.
    pub fn story(&self) -> String {
        self.story.borrow().as_ref().map_or(String::new(), |s| s.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_comes_once() {
        let chooser = Chooser::default();
        let mut seen = Vec::new();
        loop {
            let first = chooser.choose(3);
            // What is asked later may depend on what was answered before.
            seen.push(if first == 1 { (first, chooser.choose(2)) } else { (first, 9) });
            if !chooser.advance() {
                break;
            }
        }
        assert_eq!(seen, [(0, 9), (1, 0), (1, 1), (2, 9)]);
    }

    #[test]
    fn answers_can_be_given_again() {
        let chooser = Chooser::default();
        let ask = |chooser: &Chooser| (chooser.among(&['a', 'b']), chooser.choose(3));
        ask(&chooser);
        assert!(chooser.advance());
        let second = ask(&chooser);
        assert_eq!(chooser.answers(), [(0, 2), (1, 3)]);
        assert_eq!(ask(&Chooser::answering(chooser.answers())), second);
    }

    #[test]
    fn a_story_is_one_step_long() {
        let chooser = Chooser::telling();
        chooser.choose(2);
        chooser.tell(|| "one".into());
        chooser.tell(|| "two".into());
        assert_eq!(chooser.story(), "one, two");
        assert!(chooser.advance());
        assert_eq!(chooser.story(), "");
        Chooser::default().tell(|| unreachable!("nobody reads it"));
    }
}
