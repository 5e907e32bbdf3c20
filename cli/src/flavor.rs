//! How an image patches itself
//!
//! The algorithms changed between versions, and fixes travel between them. So each part is told from what the image
//! contains, its sections, its functions and their code. Nothing here looks at a version number.
use anyhow::{Context, Result, bail};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use crate::bytes::hex;
use crate::elf::Image;
use crate::symbols::KernelSymbols;

/// A generation of `apply_alternatives()` and of what surrounds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Patching {
    /// As in 6.1: paravirt sites in a table of their own, NOPs up to 8 bytes, replacements rewritten in place.
    V6_1,
    /// As in 6.8: paravirt calls are alternatives, NOPs up to 11 bytes, replacements relocated before they are written;
    /// NOPs are merged with a jump that skips them.
    V6_8,
    /// As in 6.12, and in 7: as 6.8, but NOPs are merged with each other only.
    V6_12,
}

/// What a branch through a register is filled up with when it takes a retpoline's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Padding {
    /// NOPs behind it; behind a jump one INT3 first.
    Nops,
    /// CS prefixes before a call, INT3 behind a jump.
    Prefixes,
}

/// How an image patches itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flavor {
    /// Alternatives.
    pub patching: Patching,
    /// Branches through registers.
    pub padding: Padding,
    /// What takes the place of an ENDBR that nothing may branch to.
    pub seal: [u8; 4],
}

/// What has taken the place of an ENDBR so far: a NOP, and one that leads into an undefined instruction.
const SEALS: [[u8; 4]; 2] = [[0x66, 0x0f, 0x1f, 0x00], [0x0f, 0x1f, 0x40, 0xd6]];

impl Flavor {
    /// Debian's 6.1.
    #[cfg(test)]
    pub const V6_1: Self = Self { patching: Patching::V6_1, padding: Padding::Nops, seal: SEALS[0] };
    /// Ubuntu's 6.8.
    #[cfg(test)]
    pub const V6_8: Self = Self { patching: Patching::V6_8, padding: Padding::Nops, seal: SEALS[0] };
    /// Debian's 6.12.
    #[cfg(test)]
    pub const V6_12: Self = Self { patching: Patching::V6_12, padding: Padding::Nops, seal: SEALS[0] };
    /// Debian's 7.3.
    #[cfg(test)]
    pub const V7_3: Self = Self { patching: Patching::V6_12, padding: Padding::Prefixes, seal: SEALS[1] };

    /// Tells the flavor of an image.
    pub fn detect(image: &Image<'_>, symbols: &KernelSymbols) -> Result<Self> {
        let has_section = |name: &str| image.section(name).is_some_and(|s| !s.bytes.is_empty());
        let patching = Patching::detect(has_section, |name| symbols.get(name).is_some())?;
        let function = |name: &str| -> Result<Option<&[u8]>> {
            let Some(address) = symbols.get(name) else { return Ok(None) };
            image.bytes(address, symbols.size(address)).map(Some)
        };
        let mut code = vec![function("apply_retpolines")?.context("the kernel has no function apply_retpolines")?];
        // What apply_retpolines() calls is a function of its own where the compiler thought so.
        for inlined in ["patch_retpoline", "emit_indirect"] {
            code.extend(function(inlined)?);
        }
        let padding = Padding::detect(&code)?;
        let seal = match (has_section(".ibt_endbr_seal"), function("apply_seal_endbr")?) {
            (false, _) => SEALS[0],
            (true, None) => bail!("the kernel removes ENDBR (.ibt_endbr_seal), but has no function apply_seal_endbr"),
            (true, Some(code)) => seal(code)?,
        };
        Ok(Self { patching, padding, seal })
    }
}

impl Patching {
    /// Tells it from the names of the kernel's sections with contents, and of its symbols.
    fn detect(has_section: impl Fn(&str) -> bool, has_symbol: impl Fn(&str) -> bool) -> Result<Self> {
        for (needed, why) in [(".altinstructions", "alternatives"), (".return_sites", "return thunks")] {
            if !has_section(needed) {
                bail!("the kernel has no section {needed} ({why}): its patching is unknown");
            }
        }
        if has_section(".cfi_sites") {
            bail!("the kernel has a section .cfi_sites: rewriting of CFI preambles is unknown");
        }
        if has_section(".parainstructions") {
            if has_section(".call_sites") {
                bail!("the kernel has both .parainstructions and .call_sites: its patching is unknown");
            }
            return Ok(Self::V6_1);
        }
        // What moves replacements was a local function first. It became one that others call, and lost that name.
        if has_symbol("__apply_relocation") {
            return Ok(Self::V6_12);
        }
        if has_symbol("apply_relocation") && has_symbol("__optimize_nops") {
            return Ok(Self::V6_8);
        }
        bail!(
            "the kernel has neither .parainstructions nor __apply_relocation nor __optimize_nops: how it moves \
             alternatives is unknown"
        )
    }

    /// Size of a `struct alt_instr`.
    pub fn alt_entry_len(self) -> usize {
        match self {
            Self::V6_1 => 12,
            Self::V6_8 | Self::V6_12 => 14,
        }
    }

    /// Longest NOP in the kernel's table.
    pub fn max_nop(self) -> usize {
        match self {
            Self::V6_1 => 8,
            Self::V6_8 | Self::V6_12 => 11,
        }
    }
}

impl Padding {
    /// Tells it from the code that rewrites retpolines: as many CS prefixes as fit are written by a loop, to a place
    /// that an index says. Where there is always one, for a thunk, its place is fixed.
    fn detect(functions: &[&[u8]]) -> Result<Self> {
        const CS: u64 = 0x2e;
        let mut found = Self::Nops;
        for insn in functions.iter().flat_map(|code| Decoder::with_ip(64, code, 0, DecoderOptions::NONE).into_iter()) {
            let immediate = |op: u32| insn.try_immediate(op).is_ok_and(|value| value == CS);
            if insn.mnemonic() != Mnemonic::Mov || insn.op_count() != 2 || !immediate(1) {
                continue;
            }
            match insn.op0_kind() {
                OpKind::Memory if indexed(&insn) => found = Self::Prefixes,
                OpKind::Memory => {}
                _ => bail!("the kernel's apply_retpolines uses CS prefixes in a way that is unknown"),
            }
        }
        Ok(found)
    }
}

fn indexed(insn: &Instruction) -> bool {
    insn.memory_index() != Register::None
}

/// What the code of `apply_seal_endbr()` writes in an ENDBR's place.
fn seal(code: &[u8]) -> Result<[u8; 4]> {
    let mut written = SEALS.into_iter().filter(|seal| code.windows(4).any(|w| w == seal));
    match (written.next(), written.next()) {
        (Some(seal), None) => Ok(seal),
        _ => bail!(
            "apply_seal_endbr does not write one of {}: what the kernel puts in an ENDBR's place is unknown",
            SEALS.map(|s| hex(&s)).join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_images() {
        let v61 = [".altinstructions", ".return_sites", ".parainstructions", ".smp_locks"];
        let later = [".altinstructions", ".return_sites", ".call_sites"];
        let none = |_: &str| false;
        assert_eq!(Patching::detect(|s| v61.contains(&s), none).unwrap(), Patching::V6_1);
        let detect = |symbols: &[&str]| Patching::detect(|s| later.contains(&s), |s| symbols.contains(&s));
        assert_eq!(detect(&["apply_relocation", "__optimize_nops"]).unwrap(), Patching::V6_8);
        assert_eq!(detect(&["apply_relocation", "__apply_relocation"]).unwrap(), Patching::V6_12);
        assert_eq!(detect(&["text_poke_apply_relocation", "__apply_relocation"]).unwrap(), Patching::V6_12);
        assert!(detect(&["apply_relocation"]).is_err());
        assert!(detect(&[]).is_err());
    }

    #[test]
    fn unknown_images_are_refused_by_name() {
        let refused = |has_section: fn(&str) -> bool| {
            Patching::detect(has_section, |_| true).map(|_| ()).unwrap_err().to_string()
        };
        assert!(refused(|s| s != ".parainstructions").contains(".cfi_sites"));
        assert!(refused(|s| s != ".cfi_sites").contains("both .parainstructions and .call_sites"));
        assert!(refused(|s| s == ".return_sites").contains(".altinstructions"));
    }

    #[test]
    fn padding_is_read_from_code() {
        // mov byte [rdx],2eh; mov byte [rsp+88h],2eh; ret
        let fixed = [0xc6, 0x02, 0x2e, 0xc6, 0x84, 0x24, 0x88, 0, 0, 0, 0x2e, 0xc3];
        assert_eq!(Padding::detect(&[&fixed]).unwrap(), Padding::Nops);
        // mov byte [rsi+rdx],2eh
        let looped = [0xc6, 0x04, 0x16, 0x2e, 0xc3];
        assert_eq!(Padding::detect(&[&fixed, &looped]).unwrap(), Padding::Prefixes);
        // mov esi,2eh; call memset
        assert!(Padding::detect(&[&[0xbe, 0x2e, 0, 0, 0, 0xe8, 0, 0, 0, 0]]).is_err());
    }

    #[test]
    fn seals_are_read_from_code() {
        // mov dword [rsp],0x1f0f66
        assert_eq!(seal(&[0xc7, 0x04, 0x24, 0x66, 0x0f, 0x1f, 0x00]).unwrap(), SEALS[0]);
        assert_eq!(seal(&[0xc7, 0x04, 0x24, 0x0f, 0x1f, 0x40, 0xd6]).unwrap(), SEALS[1]);
        assert!(seal(&[0xc7, 0x04, 0x24, 0x0f, 0x1f, 0x40, 0xd7]).is_err());
        assert!(seal(&SEALS.concat()).is_err());
    }
}
