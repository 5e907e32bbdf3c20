//! NOPs as Linux writes them (`x86_nops[]`, `add_nops`, `optimize_nops`)
use crate::flavor::Patching;
use crate::insn;

/// The NOP of each length.
const NOPS: [&[u8]; 12] = [
    &[],
    &[0x90],
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// The NOP of 5 bytes, which stands for a disabled call.
pub const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

/// The kernel's own table of NOPs (`x86nops`).
pub fn table(patching: Patching) -> Vec<u8> {
    NOPS[..=patching.max_nop()].concat()
}

/// Fills `out` with the longest NOPs there are (6.1 `add_nops`).
fn fill_greedy(out: &mut [u8], max: usize) {
    for chunk in out.chunks_mut(max) {
        chunk.copy_from_slice(NOPS[chunk.len()]);
    }
}

/// Fills `out` with one NOP, or a jump over INT3 (6.12 `add_nop`).
fn fill_one(out: &mut [u8], max: usize) {
    let len = out.len();
    if len <= max {
        out.copy_from_slice(NOPS[len]);
        return;
    }
    out.fill(0xcc);
    if len < 128 {
        out[..2].copy_from_slice(&[0xeb, (len - 2) as u8]);
    } else {
        out[0] = 0xe9;
        out[1..5].copy_from_slice(&(len as u32 - 5).to_le_bytes());
    }
}

/// A site of `len` bytes without anything in it.
pub fn nops(patching: Patching, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    match patching {
        Patching::V6_1 => fill_greedy(&mut out, patching.max_nop()),
        Patching::V6_8 | Patching::V6_12 => fill_one(&mut out, patching.max_nop()),
    }
    out
}

/// Merges NOPs as Linux does once it has patched a site.
pub fn optimize(patching: Patching, bytes: &mut [u8]) {
    match patching {
        Patching::V6_1 => merge_single_bytes(bytes, patching.max_nop()),
        Patching::V6_8 => merge_with_jumps(bytes, patching.max_nop()),
        Patching::V6_12 => merge(bytes, patching.max_nop()),
    }
}

/// Merges runs of two or more one-byte NOPs.
fn merge_single_bytes(bytes: &mut [u8], max: usize) {
    let mut at = 0;
    while let Some(insn) = insn::decode(bytes, at) {
        if insn.len > 1 || insn.opcode[0] != 0x90 {
            at = insn.end();
            continue;
        }
        let run = bytes[at..].iter().take_while(|b| **b == 0x90).count();
        if run > 1 {
            fill_greedy(&mut bytes[at..at + run], max);
        }
        at += run;
    }
}

/// The end of a run of NOPs that goes on at `at`.
fn skip(bytes: &[u8], mut at: usize) -> usize {
    while let Some(next) = insn::decode(bytes, at).filter(insn::Insn::is_nop) {
        at = next.end();
    }
    at
}

/// Merges runs of any NOPs, unless it is one NOP at the very end.
fn merge(bytes: &mut [u8], max: usize) {
    let mut at = 0;
    while let Some(insn) = insn::decode(bytes, at) {
        if !insn.is_nop() {
            at = insn.end();
            continue;
        }
        if insn.end() == bytes.len() {
            return;
        }
        let end = skip(bytes, insn.end());
        fill_one(&mut bytes[at..end], max);
        at = end;
    }
}

/// Merges runs of any NOPs, and with them a jump before them that leads behind them.
fn merge_with_jumps(bytes: &mut [u8], max: usize) {
    let (mut at, mut jump) = (0, None);
    while let Some(insn) = insn::decode(bytes, at) {
        if insn.is_nop() {
            let end = skip(bytes, insn.end());
            let over = jump.filter(|(_, target)| *target == end as i64).map(|(start, _)| start);
            fill_one(&mut bytes[over.unwrap_or(at)..end], max);
            at = end;
            continue;
        }
        jump = match insn.opcode[0] {
            0xeb | 0xe9 => insn.target(bytes).map(|target| (at, target)),
            _ => None,
        };
        at = insn.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insn;

    #[test]
    fn every_nop_is_one_instruction() {
        for (len, nop) in NOPS.iter().enumerate().skip(1) {
            assert_eq!(nop.len(), len);
            assert_eq!(insn::decode(nop, 0).map(|i| (i.len, i.is_nop())), Some((len, true)));
        }
    }

    #[test]
    fn long_fillers() {
        assert_eq!(nops(Patching::V6_1, 11), [NOPS[8], NOPS[3]].concat());
        assert_eq!(nops(Patching::V6_12, 11), NOPS[11]);
        assert_eq!(nops(Patching::V6_12, 13), [&[0xeb, 11][..], &[0xcc; 11]].concat());
        assert_eq!(nops(Patching::V6_12, 200)[..5], [0xe9, 195, 0, 0, 0]);
    }

    fn optimized(patching: Patching, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        optimize(patching, &mut bytes);
        bytes
    }

    #[test]
    fn a_lone_nop_stays() {
        for patching in [Patching::V6_1, Patching::V6_8, Patching::V6_12] {
            assert_eq!(optimized(patching, &[0xfa, 0x90]), [0xfa, 0x90]);
            assert_eq!(optimized(patching, &[0xff, 0xd0, 0x90, 0x90, 0x90]), [0xff, 0xd0, 0x0f, 0x1f, 0x00]);
            assert_eq!(optimized(patching, &[0xff, 0xe0, 0xcc, 0x90, 0x90]), [0xff, 0xe0, 0xcc, 0x66, 0x90]);
        }
    }

    #[test]
    fn a_jump_over_nops_is_a_nop_only_in_6_8() {
        let skipped = [0xfa, 0xeb, 0x03, 0x90, 0x90, 0x90, 0xfb];
        let merged = [&[0xfa][..], NOPS[5], &[0xfb]].concat();
        assert_eq!(optimized(Patching::V6_8, &skipped), merged);
        assert_eq!(optimized(Patching::V6_12, &skipped), [0xfa, 0xeb, 0x03, 0x0f, 0x1f, 0x00, 0xfb]);
        // One that leads elsewhere stays, and so does one with something else behind it.
        for other in [[0xeb, 0x04, 0x90, 0x90, 0x90, 0xfb, 0xfa], [0xeb, 0x04, 0xcc, 0x90, 0x90, 0x90, 0xfa]] {
            assert_eq!(optimized(Patching::V6_8, &other)[..2], other[..2]);
        }
    }

    #[test]
    fn newer_kernels_merge_all_nops_older_ones_only_single_bytes() {
        let mixed = [0x66, 0x90, 0x90, 0x0f, 0x1f, 0x00];
        assert_eq!(optimized(Patching::V6_1, &mixed), mixed);
        assert_eq!(optimized(Patching::V6_12, &mixed), NOPS[6]);
        assert_eq!(optimized(Patching::V6_12, &[0xf3, 0x90, 0x90, 0x90]), [0xf3, 0x90, 0x66, 0x90]);
    }
}
