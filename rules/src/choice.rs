//! What the kernel chose for itself at boot, and what follows for every site
//!
//! Linux picks one form per site by conditions: CPU features, the kind of return, one CPU or more. The kernel's
//! own sites show at boot which conditions hold; from then on a module's sites must agree. A condition that no
//! kernel site shows is bound by the first module site that does.
use secvisor_approval::wire::cond;

use crate::check::{Check, made};

const WORDS: usize = (cond::END as usize).div_ceil(64);

/// What is known about every condition.
#[cfg_attr(feature = "model", derive(Clone, PartialEq, Eq, Hash))]
pub struct Choices {
    known: [u64; WORDS],
    holds: [u64; WORDS],
}

impl Choices {
    pub(crate) const fn new() -> Self {
        Self { known: [0; WORDS], holds: [0; WORDS] }
    }

    /// Whether a variant's condition holds; `None` if that is not known.
    fn of(&self, raw: u16) -> Option<bool> {
        let id = raw & !cond::NOT;
        match id {
            cond::BASE => return Some(true),
            cond::BOOT_ONLY if made(Check::BootOnly) => return Some(false),
            _ => {}
        }
        let (word, bit) = (id as usize / 64, 1u64 << (id % 64));
        (self.known[word] & bit != 0).then(|| (self.holds[word] & bit != 0) != (raw & cond::NOT != 0))
    }

    fn bind(&mut self, raw: u16, value: bool) {
        let id = raw & !cond::NOT;
        if id == cond::BASE || id == cond::BOOT_ONLY {
            return;
        }
        let (word, bit) = (id as usize / 64, 1u64 << (id % 64));
        self.known[word] |= bit;
        if value != (raw & cond::NOT != 0) { self.holds[word] |= bit } else { self.holds[word] &= !bit }
    }

    /// Whether a variant can be the one Linux chose: its condition may hold, and none of the variants behind it is known
    /// to. `conds` are the conditions from that variant on.
    pub(crate) fn possible(&self, mut conds: impl Iterator<Item = u16>) -> bool {
        conds.next().is_some_and(|c| self.of(c) != Some(false)) && conds.all(|c| self.of(c) != Some(true))
    }

    /// Learns from a site that holds a variant and can hold no other. `conds` are the conditions from that one on.
    pub(crate) fn learn(&mut self, mut conds: impl Iterator<Item = u16>) {
        if let Some(chosen) = conds.next() {
            self.bind(chosen, true);
        }
        conds.for_each(|later| self.bind(later, false));
    }

    /// Whether there is nothing to learn from a site with these conditions.
    pub(crate) fn settled(&self, mut conds: impl Iterator<Item = u16>) -> bool {
        conds.all(|c| self.of(c).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(conds: &[u16], index: usize) -> impl Iterator<Item = u16> {
        conds[index..].iter().copied()
    }

    #[test]
    fn last_condition_that_holds_decides() {
        let v = [cond::BASE, 7, 9 | cond::NOT];
        let mut c = Choices::new();
        assert!((0..3).all(|i| c.possible(from(&v, i))));
        c.learn(from(&v, 1));
        assert!(!c.possible(from(&v, 0)) && c.possible(from(&v, 1)) && !c.possible(from(&v, 2)));
        assert!(c.settled(from(&v, 0)));
    }

    #[test]
    fn boot_only_forms_are_never_possible() {
        let v = [cond::BOOT_ONLY, cond::BASE, 5];
        assert!(!Choices::new().possible(from(&v, 0)));
        assert!(Choices::new().possible(from(&v, 1)));
        // Nothing behind it is known to hold, either.
        let v = [cond::BOOT_ONLY, 5 | cond::NOT, 5];
        let c = Choices::new();
        assert!(!c.possible(from(&v, 0)) && c.possible(from(&v, 1)) && c.possible(from(&v, 2)));
    }

    #[test]
    fn base_means_that_nothing_else_holds() {
        let v = [cond::BASE, 3, 4 | cond::NOT];
        let mut c = Choices::new();
        c.learn(from(&v, 0));
        assert!(c.possible(from(&v, 0)) && !c.possible(from(&v, 1)) && !c.possible(from(&v, 2)));
    }
}
