//! The relocation table behind the kernel: what KASLR would move
//!
//! Read backwards from the end: 32-bit fields, 0, (inverse 32-bit fields, 0,) 64-bit fields, 0. The approval
//! uses the kernel as linked; the table shows that the image was understood.
use anyhow::{Result, bail};

use crate::bytes::i32_at;

/// Link addresses of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relocs {
    /// 32-bit, sign-extended addresses.
    pub abs32: Vec<u64>,
    /// 32-bit, distances to per-CPU symbols: moved the other way.
    pub inverse32: Vec<u64>,
    /// 64-bit addresses.
    pub abs64: Vec<u64>,
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
    let mut lists = lists.into_iter();
    let abs32 = lists.next().unwrap_or_default();
    let inverse32 = if inverse { lists.next().unwrap_or_default() } else { Vec::new() };
    Ok(Relocs { abs32, inverse32, abs64: lists.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_backwards() {
        let words: [i32; 9] = [77, 0, -64, 0, -33, -32, 0, -3, -2];
        let tail: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let minus = |n: i64| -n as u64;
        let got = read(&tail, true).unwrap();
        assert_eq!(got.abs32, [minus(2), minus(3)]);
        assert_eq!(got.inverse32, [minus(32), minus(33)]);
        assert_eq!(got.abs64, [minus(64)]);
        let got = read(&tail[8..], true);
        assert!(got.is_err(), "no zero in front of the last list");
        assert!(read(&[], true).is_err());
    }
}
