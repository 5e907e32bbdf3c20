//! The counters, read and shown.

use crate::hypercall::counter;
use secvisor_amd64::exit::REASONS;
use std::fmt::Write;

/// The single counters in the order of their indices: their keys, and what they mean.
const SINGLE: [(&str, &str); 12] = [
    ("version", "version of the interface"),
    ("booted", "the first program has run (1) or not yet (0)"),
    ("frames_approved", "frames approved now"),
    ("pages_verified", "pages verified"),
    ("refused", "fetches refused"),
    ("restored", "pages put back"),
    ("writes_to_approved", "writes to approved frames"),
    ("writes_to_approved_after_boot", "the same after boot"),
    ("violations", "violations"),
    ("view_switches", "switches between the views"),
    ("tlb_flushes", "TLB flushes"),
    ("hypervisor_bytes", "bytes SecVisor takes"),
];

/// The counter that says where the exits' counters start, and in its upper half how many there are.
const EXITS: u64 = 12;

/// All counters at about the same time.
pub struct Status {
    single: [u64; SINGLE.len()],
    exits: Vec<(String, u64)>,
}

impl Status {
    /// Asks for each counter; nothing if nobody answers.
    pub fn ask() -> Option<Status> {
        let mut single = [0; SINGLE.len()];
        for (index, value) in single.iter_mut().enumerate() {
            *value = counter(index as u64)?;
        }
        let place = counter(EXITS)?;
        let (first, count) = (place & u64::from(u32::MAX), place >> 32);
        let name = |number: u64| {
            let known = usize::try_from(number).ok().and_then(|number| REASONS.get(number));
            known.map_or_else(|| format!("reason-{number}"), |name| name.to_string())
        };
        let exits = (0..count).map_while(|number| Some((name(number), counter(first.checked_add(number)?)?)));
        Some(Status { single, exits: exits.collect() })
    }

    /// One counter per line.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for ((_, meaning), value) in SINGLE.iter().zip(self.single) {
            let _ = writeln!(text, "{meaning:45} {value:>12}");
        }
        for (reason, count) in &self.exits {
            let _ = writeln!(text, "{:45} {count:>12}", format!("exits: {reason}"));
        }
        text
    }

    /// One object on one line.
    pub fn json(&self) -> String {
        let single = SINGLE.iter().zip(self.single).map(|((key, _), value)| format!("\"{key}\":{value}"));
        let exits: Vec<_> = self.exits.iter().map(|(reason, count)| format!("\"{reason}\":{count}")).collect();
        let exits = format!("\"exits\":{{{}}}", exits.join(","));
        let members: Vec<_> = single.chain([exits]).collect();
        format!("{{{}}}\n", members.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_one_line() {
        let status = Status { single: [7; SINGLE.len()], exits: vec![("syscall".to_string(), 3)] };
        let json = status.json();
        assert!(json.starts_with("{\"version\":7,\"booted\":7,"), "{json}");
        assert!(json.ends_with(",\"exits\":{\"syscall\":3}}\n"), "{json}");
        assert_eq!(json.lines().count(), 1);
        assert_eq!(status.text().lines().count(), SINGLE.len() + 1);
    }
}
