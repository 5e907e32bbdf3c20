//! Which of Linux's patching algorithms an image uses
//!
//! The algorithms changed between versions; what an image contains tells which it has. Nothing here looks at
//! a version number.
use anyhow::{Result, bail};

/// A generation of `arch/x86/kernel/alternative.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavor {
    /// As in 6.1: paravirt sites in a table of their own, NOPs up to 8 bytes, replacements rewritten in place.
    V6_1,
    /// As in 6.12: paravirt calls are alternatives, NOPs up to 11 bytes, replacements relocated before they are written.
    V6_12,
}

impl Flavor {
    /// Tells the flavor from the names of the kernel's sections and symbols.
    pub fn detect(has_section: impl Fn(&str) -> bool, has_symbol: impl Fn(&str) -> bool) -> Result<Self> {
        for (needed, why) in [(".altinstructions", "alternatives"), (".return_sites", "return thunks")] {
            if !has_section(needed) {
                bail!("the kernel has no section {needed} ({why}): its patching is unknown");
            }
        }
        if has_section(".cfi_sites") {
            bail!("the kernel has a section .cfi_sites: rewriting of CFI preambles is unknown");
        }
        // From 6.17 on text_poke_bp is smp_text_poke_*, alternatives are applied once per site, and per-CPU
        // addresses are no longer zero-based.
        if has_symbol("smp_text_poke_single") || (!has_section(".smp_locks") && !has_section(".parainstructions")) {
            bail!("the kernel patches itself as Linux 7 does (no .smp_locks, smp_text_poke_single): unknown");
        }
        match (has_section(".parainstructions"), has_section(".call_sites")) {
            (true, false) => Ok(Self::V6_1),
            (false, true) if has_symbol("text_poke_apply_relocation") => Ok(Self::V6_12),
            (false, true) => {
                bail!("the kernel has no text_poke_apply_relocation: how it moves alternatives is unknown")
            }
            (true, true) => bail!("the kernel has both .parainstructions and .call_sites: its patching is unknown"),
            (false, false) => {
                bail!("the kernel has neither .parainstructions nor .call_sites: its patching is unknown")
            }
        }
    }

    /// Size of a `struct alt_instr`.
    pub fn alt_entry_len(self) -> usize {
        match self {
            Self::V6_1 => 12,
            Self::V6_12 => 14,
        }
    }

    /// Longest NOP in the kernel's table.
    pub fn max_nop(self) -> usize {
        match self {
            Self::V6_1 => 8,
            Self::V6_12 => 11,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_images() {
        let v61 = [".altinstructions", ".return_sites", ".parainstructions", ".smp_locks"];
        let v612 = [".altinstructions", ".return_sites", ".call_sites", ".smp_locks"];
        let none = |_: &str| false;
        assert_eq!(Flavor::detect(|s| v61.contains(&s), none).unwrap(), Flavor::V6_1);
        let moves = |s: &str| s == "text_poke_apply_relocation";
        assert_eq!(Flavor::detect(|s| v612.contains(&s), moves).unwrap(), Flavor::V6_12);
        assert!(Flavor::detect(|s| v612.contains(&s), none).is_err());
    }

    #[test]
    fn unknown_images_are_refused_by_name() {
        let cfi = |s: &str| s != ".parainstructions";
        assert!(Flavor::detect(cfi, |_| false).unwrap_err().to_string().contains(".cfi_sites"));
        let seven = [".altinstructions", ".return_sites", ".call_sites"];
        assert!(Flavor::detect(|s| seven.contains(&s), |_| false).is_err());
    }
}
