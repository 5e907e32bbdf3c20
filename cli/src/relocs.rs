//! The relocation table behind the kernel: what KASLR moves
//!
//! Read backwards from the end: 32-bit fields, 0, (inverse 32-bit fields, 0,) 64-bit fields, 0.
use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::{Result, bail, ensure};

use crate::bytes::i32_at;

/// Link addresses of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relocs {
    /// 32-bit, sign-extended addresses.
    pub abs32: BTreeSet<u64>,
    /// 32-bit, distances to per-CPU symbols: moved the other way.
    pub inverse32: BTreeSet<u64>,
    /// 64-bit addresses.
    pub abs64: BTreeSet<u64>,
}

impl Relocs {
    /// Whether a field has bytes in a range.
    pub fn touches(&self, range: Range<u64>) -> bool {
        let within = |fields: &BTreeSet<u64>, width: u64| {
            let first = range.start.saturating_sub(width - 1);
            first < range.end && fields.range(first..range.end).next().is_some()
        };
        within(&self.abs32, 4) || within(&self.inverse32, 4) || within(&self.abs64, 8)
    }
}

/// Reads the table at the end of `tail`. `inverse` tells whether it has the middle list.
pub fn read(tail: &[u8], inverse: bool) -> Result<Relocs> {
    let mut lists = vec![Vec::new()];
    let mut at = tail.len();
    let wanted = if inverse { 3 } else { 2 };
    while lists.len() <= wanted {
        let Some(value) = at.checked_sub(4).and_then(|at| i32_at(tail, at)) else {
            bail!("the kernel's relocation table ends too early");
        };
        at -= 4;
        match (value, lists.last_mut()) {
            (0, _) => lists.push(Vec::new()),
            (value, Some(list)) => list.push(value as i64 as u64),
            (_, None) => {}
        }
    }
    let fields: usize = lists.iter().map(Vec::len).sum();
    let mut lists = lists.into_iter().map(BTreeSet::from_iter);
    let abs32 = lists.next().unwrap_or_default();
    let inverse32 = if inverse { lists.next().unwrap_or_default() } else { BTreeSet::new() };
    let abs64 = lists.next().unwrap_or_default();
    ensure!(abs32.len() + inverse32.len() + abs64.len() == fields, "the kernel's relocation table lists a field twice");
    Ok(Relocs { abs32, inverse32, abs64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn got_touches(tail: &[u8], range: Range<u64>) -> bool {
        read(tail, true).unwrap().touches(range)
    }

    #[test]
    fn lists_are_read_backwards() {
        let words: [i32; 9] = [77, 0, -64, 0, -33, -32, 0, -3, -2];
        let tail: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let minus = |n: i64| -n as u64;
        let got = read(&tail, true).unwrap();
        assert_eq!(got.abs32, [minus(2), minus(3)].into());
        assert_eq!(got.inverse32, [minus(32), minus(33)].into());
        assert_eq!(got.abs64, [minus(64)].into());
        let got = read(&tail[8..], true);
        assert!(got.is_err(), "no zero in front of the last list");
        assert!(read(&[], true).is_err());
        // -64 to -56, -33 to -29 and -32 to -28, -3 to 1.
        let touched = |at: i64| got_touches(&tail, minus(-at)..minus(-at - 1));
        assert!([-64, -57, -33, -29, -3].map(touched).iter().all(|t| *t));
        assert!([-65, -56, -34, -28, -4].map(touched).iter().all(|t| !*t));
        assert!(got_touches(&tail, minus(100)..minus(63)) && !got_touches(&tail, minus(56)..minus(33)));
        let twice = [0, -64, 0, 0, -2, -2].map(i32::to_le_bytes).concat();
        assert!(read(&twice, true).unwrap_err().to_string().contains("twice"));
    }
}
