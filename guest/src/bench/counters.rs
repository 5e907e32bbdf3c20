//! SecVisor's counters, as far as they say what an operation cost

use crate::hypercall::counter;
use secvisor_amd64::exit::REASONS;

/// Index of the counter of view switches.
const SWITCHES: u64 = 9;
/// Index of the counter of TLB flushes.
const FLUSHES: u64 = 10;
/// Index of the counter that says where the exits' counters start, and in its upper half how many there are.
const EXITS: u64 = 12;
/// Index of the counter of writes to approved frames since the first user-mode instruction.
pub const WRITES_AFTER_BOOT: u64 = 7;

/// The reason that asking for a counter is.
const HYPERCALL: usize = 9;

/// Counters, or how much they grew.
#[derive(Clone, Copy, Default)]
pub struct Counters {
    switches: u64,
    flushes: u64,
    exits: [u64; REASONS.len()],
}

impl Counters {
    /// What they are now. Asking is not counted.
    pub fn read() -> Counters {
        let ask = |index| counter(index).expect("a counter SecVisor has");
        let place = ask(EXITS);
        let (first, count) = (place & u64::from(u32::MAX), place >> 32);
        assert_eq!(count, REASONS.len() as u64, "SecVisor counts other reasons");
        let mut exits: [u64; REASONS.len()] = std::array::from_fn(|reason| ask(first + reason as u64));
        exits[HYPERCALL] = 0;
        Counters { switches: ask(SWITCHES), flushes: ask(FLUSHES), exits }
    }

    /// The growth.
    pub fn since(&self, earlier: &Counters) -> Counters {
        Counters {
            switches: self.switches - earlier.switches,
            flushes: self.flushes - earlier.flushes,
            exits: std::array::from_fn(|reason| self.exits[reason] - earlier.exits[reason]),
        }
    }

    /// All exits.
    pub fn total(&self) -> u64 {
        self.exits.iter().sum()
    }

    /// One object; `times` operations were done.
    pub fn json_per(&self, times: u64) -> String {
        let per = |count: u64| count as f64 / times as f64;
        let reasons = REASONS.iter().zip(self.exits).filter(|(_, count)| *count > 0);
        let reasons: Vec<_> = reasons.map(|(name, count)| format!("\"{name}\":{:.4}", per(count))).collect();
        format!(
            "{{\"exits\":{:.4},\"switches\":{:.4},\"tlb_flushes\":{:.4},\"reasons\":{{{}}}}}",
            per(self.total()),
            per(self.switches),
            per(self.flushes),
            reasons.join(",")
        )
    }

    /// One object.
    pub fn json(&self) -> String {
        self.json_per(1)
    }
}
