//! kallsyms: the symbol table a stripped kernel carries in its own read-only data
//!
//! Nothing points at it, so it is found by its token table, whose tokens for the digits are the digits. Its parts are
//! aligned to 8 bytes, since 7.1 to 4. Three layouts are known:
//! - 6.1: offsets, relative base, count, names, markers, sequence (not in 5.15), token table, token index;
//! - 6.12: count, names, markers, token table, token index, offsets, relative base, sequence;
//! - 7: as 6.12 without the relative base, each offset relative to its own place.
use anyhow::{Context, Result, bail, ensure};

use crate::bytes::{i32_at, u16_at, u32_at, u64_at};
use crate::symbols::Symbol;

/// Bytes the search for the start of the names may go back.
const MAX_NAMES: usize = 32 << 20;
/// Bytes of a symbol's place in the order of names.
const SEQUENCE: usize = 3;
const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";

/// Finds and decodes the table in the bytes of a section at `address`.
pub fn decode(section: &[u8], address: u64) -> Result<Vec<Symbol>> {
    let found: Vec<Tokens> = ALIGNMENTS.iter().filter_map(|align| Tokens::find(section, *align)).collect();
    ensure!(!found.is_empty(), "no kallsyms token table");
    let layouts = found.iter().flat_map(|tokens| {
        let old = [SEQUENCE, 0].map(|sequence| layout_old(section, tokens, sequence));
        std::iter::once(layout_new(section, address, tokens)).chain(old).zip(std::iter::repeat(tokens))
    });
    // Linux sorts them; addresses that were read from another place are in no order.
    let mut right = layouts.filter_map(|(table, tokens)| Some((table.filter(|t| t.addresses.is_sorted())?, tokens)));
    let (table, tokens) = right.next().context("kallsyms in an unknown layout")?;
    let mut out = Vec::with_capacity(table.addresses.len());
    let mut at = table.names;
    for address in table.addresses {
        let (len, skip) = name_len(section, at).context("truncated kallsyms names")?;
        let indices = section.get(at + skip..at + skip + len).context("truncated kallsyms names")?;
        at += skip + len;
        let mut text = Vec::with_capacity(32);
        for index in indices {
            text.extend_from_slice(tokens.expand(section, *index));
        }
        let Some((kind, name)) = text.split_first() else { bail!("kallsyms symbol without a name") };
        let name = String::from_utf8(name.to_vec()).context("kallsyms symbol name")?;
        out.push(Symbol { address, kind: *kind, name });
    }
    Ok(out)
}

/// Alignments of the table's parts.
const ALIGNMENTS: [usize; 2] = [8, 4];

/// Positions of the token table and its index, and how they and what lies around them are aligned.
struct Tokens {
    table: usize,
    index: usize,
    align: usize,
}

impl Tokens {
    fn find(section: &[u8], align: usize) -> Option<Self> {
        let mut from = 0;
        while let Some(found) = memchr_seq(&section[from..], DIGITS) {
            let digits = from + found;
            if let Some(tokens) = Self::check(section, digits, align) {
                return Some(tokens);
            }
            from = digits + 1;
        }
        None
    }

    /// Whether the token for the digit 0 is at `digits`: then the index follows token 255 and leads back there.
    fn check(section: &[u8], digits: usize, align: usize) -> Option<Self> {
        let mut at = digits;
        let mut starts = Vec::with_capacity(256);
        for _ in b'0' as usize..256 {
            starts.push(at);
            at += section.get(at..at + 256.min(section.len() - at))?.iter().position(|b| *b == 0)? + 1;
        }
        let index = at.next_multiple_of(align);
        let table = digits.checked_sub(u16_at(section, index + 2 * b'0' as usize)? as usize)?;
        let right = |(i, start): (usize, &usize)| {
            u16_at(section, index + 2 * (b'0' as usize + i)).is_some_and(|o| table + o as usize == *start)
        };
        (u16_at(section, index)? == 0 && starts.iter().enumerate().all(right)).then_some(Self { table, index, align })
    }

    fn expand<'a>(&self, section: &'a [u8], token: u8) -> &'a [u8] {
        let at = self.table + u16_at(section, self.index + 2 * token as usize).unwrap_or(0) as usize;
        let tail = section.get(at..).unwrap_or_default();
        &tail[..tail.iter().position(|b| *b == 0).unwrap_or(0)]
    }
}

fn memchr_seq(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// Where the names start and what address each has.
struct Table {
    names: usize,
    addresses: Vec<u64>,
}

/// Length of a name in tokens, and of the length itself.
fn name_len(section: &[u8], at: usize) -> Option<(usize, usize)> {
    let first = *section.get(at)? as usize;
    if first & 0x80 == 0 {
        return Some((first, 1));
    }
    Some((first & 0x7f | (*section.get(at + 1)? as usize) << 7, 2))
}

/// Finds the count whose names and markers end at the token table, where `behind` bytes per symbol lie between the
/// markers and that. Gives the position of the count, and the count.
fn find_count(section: &[u8], tokens: &Tokens, behind: usize) -> Option<(usize, usize)> {
    let (end, align) = (tokens.table, tokens.align);
    let lowest = end.saturating_sub(MAX_NAMES).next_multiple_of(align);
    let mut at = end / align * align;
    while at > lowest {
        at -= align;
        let count = u32_at(section, at)? as usize;
        // What lies between the count and the names is filler.
        if !(16..4 << 20).contains(&count) || section[at + 4..at + align].iter().any(|b| *b != 0) {
            continue;
        }
        let sizes = (count * behind).next_multiple_of(align) + (count.div_ceil(256) * 4).next_multiple_of(align);
        let Some(markers) = end.checked_sub(sizes).filter(|m| *m > at + align) else { continue };
        if names_end_at(section, at + align, count, markers, align) == Some(()) {
            return Some((at, count));
        }
    }
    None
}

/// Whether `count` names from `names` end at the markers, and the markers agree.
fn names_end_at(section: &[u8], names: usize, count: usize, markers: usize, align: usize) -> Option<()> {
    let mut at = names;
    for i in 0..count {
        if i % 256 == 0 && u32_at(section, markers + i / 64)? as usize != at - names {
            return None;
        }
        let (len, skip) = name_len(section, at)?;
        at += len + skip;
        if at > markers {
            return None;
        }
    }
    (at.next_multiple_of(align) == markers).then_some(())
}

/// `sequence` bytes per symbol lie between the markers and the token table.
fn layout_old(section: &[u8], tokens: &Tokens, sequence: usize) -> Option<Table> {
    let (count_at, count) = find_count(section, tokens, sequence)?;
    let base_at = count_at.checked_sub(8)?;
    let base = u64_at(section, base_at).filter(is_base)?;
    let offsets = base_at.checked_sub((count * 4).next_multiple_of(tokens.align))?;
    Some(Table { names: count_at + tokens.align, addresses: based(section, offsets, count, base)? })
}

fn layout_new(section: &[u8], address: u64, tokens: &Tokens) -> Option<Table> {
    let (count_at, count) = find_count(section, tokens, 0)?;
    let offsets = (tokens.index + 512).next_multiple_of(tokens.align);
    let base_at = (offsets + count * 4).next_multiple_of(8);
    let names = count_at + tokens.align;
    // Version 7 has sequence numbers in the base's place.
    let addresses = match u64_at(section, base_at).filter(is_base) {
        Some(base) => based(section, offsets, count, base)?,
        None => (0..count)
            .map(|i| {
                let at = offsets + 4 * i;
                Some(address.wrapping_add(at as u64).wrapping_add_signed(i32_at(section, at)? as i64))
            })
            .collect::<Option<_>>()?,
    };
    Some(Table { names, addresses })
}

/// The relative base is the kernel's first address.
fn is_base(base: &u64) -> bool {
    *base >= 0xffff_ffff_8000_0000 && base.is_multiple_of(4096)
}

/// Addresses from offsets. While per-CPU symbols were absolute (until 6.14), offsets from 0 up were absolute, too, and
/// negative ones counted from the base; since then all count from the base.
fn based(section: &[u8], offsets: usize, count: usize, base: u64) -> Option<Vec<u64>> {
    let offsets = (0..count).map(|i| Some(i32_at(section, offsets + 4 * i)? as i64)).collect::<Option<Vec<_>>>()?;
    let absolute = offsets.iter().any(|o| *o < 0);
    let address = |offset: i64| match offset {
        negative @ ..0 => base.wrapping_add_signed(-1 - negative),
        positive if absolute => positive as u64,
        positive => base.wrapping_add_signed(positive),
    };
    Some(offsets.into_iter().map(address).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 0xffff_ffff_8200_0000;
    const BASE: u64 = 0xffff_ffff_8100_0000;

    fn pad(out: &mut Vec<u8>) {
        out.resize(out.len().next_multiple_of(8), 0);
    }

    fn pad4(out: &mut Vec<u8>) {
        out.resize(out.len().next_multiple_of(4), 0);
    }

    /// 300 symbols: `T` + `f` + a digit, one token each; token 1 is a pair.
    fn names() -> (Vec<u8>, Vec<u8>) {
        let (mut names, mut markers) = (Vec::new(), Vec::new());
        for i in 0..300u32 {
            if i % 256 == 0 {
                markers.extend((names.len() as u32).to_le_bytes());
            }
            names.extend([2, 1, b'0' + (i % 10) as u8]);
        }
        (names, markers)
    }

    fn tokens(out: &mut Vec<u8>, pad: fn(&mut Vec<u8>)) {
        let start = out.len();
        let mut index = Vec::new();
        for t in 0..256usize {
            index.extend(((out.len() - start) as u16).to_le_bytes());
            match t {
                1 => out.extend(b"Tf"),
                48..=57 => out.push(t as u8),
                _ => out.push(b'x'),
            }
            out.push(0);
        }
        pad(out);
        out.extend(index);
        pad(out);
    }

    fn offsets(out: &mut Vec<u8>) {
        for i in 0..300i32 {
            out.extend((if i == 0 { 0x40 } else { -1 - 16 * i }).to_le_bytes());
        }
        pad(out);
    }

    fn count_names_markers(out: &mut Vec<u8>) {
        let (names, markers) = names();
        out.extend(300u64.to_le_bytes());
        out.extend(names);
        pad(out);
        out.extend(markers);
        pad(out);
    }

    fn check(bytes: &[u8]) {
        let symbols = decode(bytes, AT).unwrap();
        assert_eq!(symbols.len(), 300);
        assert_eq!(symbols[0], Symbol { address: 0x40, kind: b'T', name: "f0".into() });
        assert_eq!(symbols[299], Symbol { address: BASE + 16 * 299, kind: b'T', name: "f9".into() });
    }

    #[test]
    fn layout_of_6_1() {
        let mut out = vec![0xaa; 64];
        offsets(&mut out);
        out.extend(BASE.to_le_bytes());
        count_names_markers(&mut out);
        out.resize(out.len() + 900, 7);
        pad(&mut out);
        tokens(&mut out, pad);
        check(&out);
    }

    #[test]
    fn layout_of_6_12() {
        let mut out = vec![0xaa; 64];
        count_names_markers(&mut out);
        tokens(&mut out, pad);
        offsets(&mut out);
        out.extend(BASE.to_le_bytes());
        check(&out);
    }

    #[test]
    fn layout_of_6_16_counts_from_the_base() {
        let mut out = vec![0xaa; 64];
        count_names_markers(&mut out);
        tokens(&mut out, pad);
        (0..300i32).for_each(|i| out.extend((16 * i).to_le_bytes()));
        out.extend(BASE.to_le_bytes());
        let symbols = decode(&out, AT).unwrap();
        assert_eq!((symbols[0].address, symbols[299].address), (BASE, BASE + 16 * 299));
    }

    #[test]
    fn layout_of_7() {
        let mut out = vec![0xaa; 64];
        count_names_markers(&mut out);
        tokens(&mut out, pad);
        for i in 0..300u64 {
            let target = if i == 0 { 0x40 } else { BASE + 16 * i };
            let here = AT + out.len() as u64;
            out.extend((target.wrapping_sub(here) as i32).to_le_bytes());
        }
        out.extend([1; 16]);
        let symbols = decode(&out, AT).unwrap();
        assert_eq!(symbols[299].address, BASE + 16 * 299);
    }

    #[test]
    fn layout_of_7_1_is_aligned_to_4() {
        let mut out = vec![0xaa; 60];
        let (names, markers) = names();
        out.extend(300u32.to_le_bytes());
        out.extend(names);
        pad4(&mut out);
        out.extend(markers);
        tokens(&mut out, pad4);
        for i in 0..300u64 {
            let here = AT + out.len() as u64;
            out.extend(((BASE + 16 * i).wrapping_sub(here) as i32).to_le_bytes());
        }
        out.extend([1; 16]);
        let symbols = decode(&out, AT).unwrap();
        assert_eq!((symbols.len(), symbols[299].address), (300, BASE + 16 * 299));
    }

    #[test]
    fn layout_of_5_15_has_no_sequence() {
        let mut out = vec![0xaa; 64];
        offsets(&mut out);
        out.extend(BASE.to_le_bytes());
        count_names_markers(&mut out);
        tokens(&mut out, pad);
        // What follows must not be taken for offsets.
        out.extend((0..500u32).flat_map(|i| i.wrapping_mul(0x9e37_79b9).to_le_bytes()));
        check(&out);
    }

    #[test]
    fn nothing_found() {
        assert!(decode(&[0; 256], AT).is_err());
        assert!(decode(DIGITS, AT).is_err());
    }
}
