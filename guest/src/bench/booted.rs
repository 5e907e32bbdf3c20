//! What a system that is not ours has executed since the machine was started

use crate::counters::Counters;
use crate::measure;
use std::fs;

/// In `/proc/stat` time is in these units of a second, whatever the kernel's tick is (`USER_HZ`).
const UNITS: u64 = 100;
/// The time-stamp counter counts a thousand million a second.
const PER_UNIT: u64 = 1_000_000_000 / UNITS;

/// One object. While a CPU waits the counter goes on without instructions, so what it has waited is taken off.
pub fn report(beneath: bool) -> String {
    let now = measure::now();
    let stat = fs::read_to_string("/proc/stat").expect("a file of Linux's");
    let waited = waited(&stat).expect("a first line as Linux writes it") * PER_UNIT;
    let counters = if beneath { Counters::read().json() } else { "null".to_string() };
    format!("{{\"executed\":{},\"waited\":{waited},\"counters\":{counters}}}", now.saturating_sub(waited))
}

/// Idle, and idle with a request for a disk: fourth and fifth of the first line.
fn waited(stat: &str) -> Option<u64> {
    let mut fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().skip(3);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::waited;

    #[test]
    fn waiting_is_idle_and_iowait() {
        assert_eq!(waited("cpu  10 20 30 400 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n"), Some(405));
        assert_eq!(waited("intr 1 2 3 4 5 6\n"), None);
    }
}
