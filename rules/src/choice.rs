//! What the kernel chose for itself at boot, and what follows for every site
//!
//! Linux picks one form per site by conditions: CPU features, the kind of return, one CPU or more. The kernel's
//! own sites show at boot which conditions hold; from then on a module's sites must agree. A condition that no
//! kernel site shows is bound by the first module site that does.
use secvisor_approval::wire::{Variant, cond};

const WORDS: usize = (cond::END as usize).div_ceil(64);

/// What is known about every condition.
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
            cond::BOOT_ONLY => return Some(false),
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

    /// Whether variant `index` can be the one Linux chose: its condition may hold, and none behind it is known to.
    pub(crate) fn possible(&self, variants: &[Variant], index: usize) -> bool {
        self.of(variants[index].cond) != Some(false)
            && variants[index + 1..].iter().all(|v| self.of(v.cond) != Some(true))
    }

    /// Learns from a site that holds variant `index` and no other of `variants`.
    pub(crate) fn learn(&mut self, variants: &[Variant], index: usize) {
        self.bind(variants[index].cond, true);
        for later in &variants[index + 1..] {
            self.bind(later.cond, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variants(conds: &[u16]) -> [Variant; 3] {
        core::array::from_fn(|i| Variant { cond: conds[i], ..Variant::default() })
    }

    #[test]
    fn last_condition_that_holds_decides() {
        let v = variants(&[cond::BASE, 7, 9 | cond::NOT]);
        let mut c = Choices::new();
        assert!((0..3).all(|i| c.possible(&v, i)));
        c.learn(&v, 1);
        assert!(!c.possible(&v, 0) && c.possible(&v, 1) && !c.possible(&v, 2));
    }

    #[test]
    fn boot_only_forms_are_never_possible() {
        let v = variants(&[cond::BOOT_ONLY, cond::BASE, 5]);
        assert!(!Choices::new().possible(&v, 0));
        assert!(Choices::new().possible(&v, 1));
    }

    #[test]
    fn base_means_that_nothing_else_holds() {
        let v = variants(&[cond::BASE, 3, 4 | cond::NOT]);
        let mut c = Choices::new();
        c.learn(&v, 0);
        assert!(c.possible(&v, 0) && !c.possible(&v, 1) && !c.possible(&v, 2));
    }
}
