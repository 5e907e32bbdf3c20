//! What Linux found out about its CPU, at random
use secvisor_approval::wire::cond;

use super::Random;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Returns {
    Plain,
    Thunk(u16, &'static str),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Indirect {
    Retpoline,
    Plain,
    Lfence,
}

/// What Linux found out about its CPU.
#[derive(Debug)]
pub struct Machine {
    features: Vec<u64>,
    pub returns: Returns,
    pub indirect: Indirect,
    pub single: bool,
}

impl Machine {
    pub fn random(r: &mut Random) -> Self {
        let mut features: Vec<u64> = (0..32).map(|_| r.next()).collect();
        features[3] |= 1 << 21;
        let returns = [
            Returns::Plain,
            Returns::Thunk(cond::RETURN_SRSO, "srso_return_thunk"),
            Returns::Thunk(cond::RETURN_SRSO_ALIAS, "srso_alias_return_thunk"),
            Returns::Thunk(cond::RETURN_ITS, "its_return_thunk"),
            Returns::Thunk(cond::RETURN_RETBLEED, "retbleed_return_thunk"),
        ];
        let indirect = [Indirect::Retpoline, Indirect::Plain, Indirect::Lfence];
        Self {
            features,
            returns: returns[r.below(5) as usize],
            indirect: indirect[r.below(3) as usize],
            single: r.below(2) == 0,
        }
    }
    pub fn has(&self, feature: u16) -> bool {
        self.features[feature as usize / 32] >> (feature % 32) & 1 != 0
    }
    /// Whether a condition of the approval holds.
    pub fn holds(&self, raw: u16) -> bool {
        let id = raw & !cond::NOT;
        let plain = match id {
            cond::BASE => true,
            cond::BOOT_ONLY => false,
            cond::INDIRECT_PLAIN => self.indirect == Indirect::Plain,
            cond::INDIRECT_LFENCE => self.indirect == Indirect::Lfence,
            cond::RETURN_PLAIN => self.returns == Returns::Plain,
            cond::UNIPROCESSOR => self.single,
            id if id > cond::SPECIAL => matches!(self.returns, Returns::Thunk(c, _) if c == id),
            id => self.has(id),
        };
        plain != (raw & cond::NOT != 0)
    }
}
