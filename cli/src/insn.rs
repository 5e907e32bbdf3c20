//! Instructions: length, first opcode bytes, and the field that is relative to the instruction pointer
//!
//! Mirrors what Linux asks of its own decoder (`arch/x86/lib/insn.c`) when it patches.
use anyhow::{Result, bail};
use iced_x86::{Decoder, DecoderOptions};

use crate::bytes::{hex, i32_at};

/// A field of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Position in the bytes that were decoded.
    pub pos: usize,
    /// Length in bytes.
    pub len: usize,
}

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// Position in the bytes that were decoded.
    pub pos: usize,
    /// Length in bytes.
    pub len: usize,
    /// First two opcode bytes behind the prefixes; the second is only meaningful behind `0f`.
    pub opcode: [u8; 2],
    /// Position of the opcode.
    pub opcode_pos: usize,
    /// First prefix, 0 if there is none.
    pub prefix: u8,
    /// The branch displacement or RIP-relative displacement.
    pub relative: Option<Part>,
    /// Whether [`Self::relative`] is a branch displacement.
    pub branch: bool,
}

impl Insn {
    /// Position of the byte behind it.
    pub fn end(&self) -> usize {
        self.pos + self.len
    }

    /// Where the relative field points, as a position in `bytes`.
    pub fn target(&self, bytes: &[u8]) -> Option<i64> {
        let part = self.relative?;
        let rel = match part.len {
            1 => *bytes.get(part.pos)? as i8 as i64,
            4 => i32_at(bytes, part.pos)? as i64,
            _ => return None,
        };
        Some(self.end() as i64 + rel)
    }

    /// Whether Linux takes it for a NOP.
    pub fn is_nop(&self) -> bool {
        (self.opcode[0] == 0x90 && self.prefix != 0xf3) || self.opcode == [0x0f, 0x1f]
    }
}

/// Decodes the instruction at `pos`; `None` if there is none.
pub fn decode(bytes: &[u8], pos: usize) -> Option<Insn> {
    let tail = bytes.get(pos..)?;
    let mut decoder = Decoder::with_ip(64, tail, 0, DecoderOptions::NONE);
    let insn = decoder.decode();
    if insn.is_invalid() {
        return None;
    }
    let constants = decoder.get_constant_offsets(&insn);
    let legacy = |b: &u8| matches!(b, 0x66 | 0x67 | 0xf2 | 0xf3 | 0xf0 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65);
    let prefixes = tail.iter().take_while(|b| legacy(b)).count();
    let rex = usize::from(tail.get(prefixes).is_some_and(|b| b & 0xf0 == 0x40));
    let opcode_pos = prefixes + rex;
    let opcode = [tail.get(opcode_pos).copied()?, tail.get(opcode_pos + 1).copied().unwrap_or(0)];
    let branch = matches!(opcode, [0xe8 | 0xe9 | 0xeb | 0x70..=0x7f | 0xe0..=0xe3, _] | [0x0f, 0x80..=0x8f]);
    let part = |offset, len| Some(Part { pos: pos + offset, len });
    let relative = if branch && constants.has_immediate() {
        part(constants.immediate_offset(), constants.immediate_size())
    } else if insn.is_ip_rel_memory_operand() && constants.has_displacement() {
        part(constants.displacement_offset(), constants.displacement_size())
    } else {
        None
    };
    Some(Insn {
        pos,
        len: insn.len(),
        opcode,
        opcode_pos: pos + opcode_pos,
        prefix: if prefixes > 0 { tail[0] } else { 0 },
        relative,
        branch,
    })
}

/// Decodes all of `bytes`; fails if they do not end where an instruction ends.
pub fn all(bytes: &[u8]) -> Result<Vec<Insn>> {
    let mut out = Vec::new();
    let mut pos = 0;
    while pos < bytes.len() {
        match decode(bytes, pos) {
            Some(insn) => {
                pos = insn.end();
                out.push(insn);
            }
            None => bail!("unknown instruction at byte {pos} of {}", hex(bytes)),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_relative_fields() {
        let call = decode(&[0xe8, 1, 0, 0, 0], 0).unwrap();
        assert_eq!((call.len, call.relative, call.branch), (5, Some(Part { pos: 1, len: 4 }), true));
        let cs_jmp = decode(&[0x2e, 0xe9, 0, 0, 0, 0], 0).unwrap();
        assert_eq!((cs_jmp.len, cs_jmp.relative), (6, Some(Part { pos: 2, len: 4 })));
        let jcc8 = decode(&[0x75, 0xfe], 0).unwrap();
        assert_eq!((jcc8.relative, jcc8.target(&[0x75, 0xfe])), (Some(Part { pos: 1, len: 1 }), Some(0)));
        let indirect = decode(&[0xff, 0x15, 4, 0, 0, 0], 0).unwrap();
        assert_eq!((indirect.relative, indirect.branch), (Some(Part { pos: 2, len: 4 }), false));
        // sarq $5,%gs:x(%rip): the displacement is followed by an immediate.
        let sar = decode(&[0x65, 0x48, 0xc1, 0x3d, 0, 0, 0, 0, 5], 0).unwrap();
        assert_eq!((sar.len, sar.relative), (9, Some(Part { pos: 4, len: 4 })));
    }

    #[test]
    fn knows_what_linux_takes_for_a_nop() {
        let nop = |b: &[u8]| decode(b, 0).unwrap().is_nop();
        assert!(nop(&[0x90]) && nop(&[0x66, 0x90]) && nop(&[0x0f, 0x1f, 0x00]));
        assert!(nop(&[0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0]));
        assert!(!nop(&[0xf3, 0x90]) && !nop(&[0xcc]) && !nop(&[0xc3]));
    }

    #[test]
    fn knows_the_newest_instruction_in_stock_replacements() {
        assert_eq!(decode(&[0x0f, 0x01, 0xc6], 0).unwrap().len, 3);
    }
}
