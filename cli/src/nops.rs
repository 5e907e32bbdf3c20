//! NOPs as Linux writes them (`x86_nops[]`, `add_nops`, `optimize_nops`)
use crate::flavor::Flavor;
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
pub fn table(flavor: Flavor) -> Vec<u8> {
    NOPS[..=flavor.max_nop()].concat()
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
pub fn nops(flavor: Flavor, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    match flavor {
        Flavor::V6_1 => fill_greedy(&mut out, flavor.max_nop()),
        Flavor::V6_12 => fill_one(&mut out, flavor.max_nop()),
    }
    out
}

/// Merges NOPs as Linux does once it has patched a site.
pub fn optimize(flavor: Flavor, bytes: &mut [u8]) {
    let len = bytes.len();
    let mut at = 0;
    while at < len {
        let Some(insn) = insn::decode(bytes, at) else { return };
        match flavor {
            // Runs of two or more one-byte NOPs.
            Flavor::V6_1 if insn.len == 1 && insn.opcode[0] == 0x90 => {
                let run = bytes[at..].iter().take_while(|b| **b == 0x90).count();
                if run > 1 {
                    fill_greedy(&mut bytes[at..at + run], flavor.max_nop());
                }
                at += run;
            }
            // Runs of any NOPs, unless it is one NOP at the very end.
            Flavor::V6_12 if insn.is_nop() => {
                let mut end = insn.end();
                if end == len {
                    return;
                }
                while let Some(next) = insn::decode(bytes, end).filter(|i| end < len && i.is_nop()) {
                    end = next.end();
                }
                let end = end.min(len);
                fill_one(&mut bytes[at..end], flavor.max_nop());
                at = end;
            }
            _ => at = insn.end(),
        }
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
        assert_eq!(nops(Flavor::V6_1, 11), [NOPS[8], NOPS[3]].concat());
        assert_eq!(nops(Flavor::V6_12, 11), NOPS[11]);
        assert_eq!(nops(Flavor::V6_12, 13), [&[0xeb, 11][..], &[0xcc; 11]].concat());
        assert_eq!(nops(Flavor::V6_12, 200)[..5], [0xe9, 195, 0, 0, 0]);
    }

    fn optimized(flavor: Flavor, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        optimize(flavor, &mut bytes);
        bytes
    }

    #[test]
    fn a_lone_nop_stays() {
        for flavor in [Flavor::V6_1, Flavor::V6_12] {
            assert_eq!(optimized(flavor, &[0xfa, 0x90]), [0xfa, 0x90]);
            assert_eq!(optimized(flavor, &[0xff, 0xd0, 0x90, 0x90, 0x90]), [0xff, 0xd0, 0x0f, 0x1f, 0x00]);
            assert_eq!(optimized(flavor, &[0xff, 0xe0, 0xcc, 0x90, 0x90]), [0xff, 0xe0, 0xcc, 0x66, 0x90]);
        }
    }

    #[test]
    fn newer_kernels_merge_all_nops_older_ones_only_single_bytes() {
        let mixed = [0x66, 0x90, 0x90, 0x0f, 0x1f, 0x00];
        assert_eq!(optimized(Flavor::V6_1, &mixed), mixed);
        assert_eq!(optimized(Flavor::V6_12, &mixed), NOPS[6]);
        assert_eq!(optimized(Flavor::V6_12, &[0xf3, 0x90, 0x90, 0x90]), [0xf3, 0x90, 0x66, 0x90]);
    }
}
