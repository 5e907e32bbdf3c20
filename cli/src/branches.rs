//! Return thunks and retpolines: what `apply_returns()` and `apply_retpolines()` may leave at a site
use anyhow::{Result, bail};
use secvisor_approval::wire::cond;

use crate::alternatives::optimized;
use crate::code::{Address, Code, Variant};
use crate::flavor::{Flavor, Padding};
use crate::symbols::KernelSymbols;

/// The return thunks a kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReturnThunks {
    /// `__x86_return_thunk`: what every return site jumps to at link time.
    pub link: u64,
    /// Condition and address of each thunk that may be chosen instead.
    pub others: Vec<(u16, u64)>,
}

impl ReturnThunks {
    /// Finds them by name. `call_depth_return_thunk` is left out: `retbleed=stuff` is not approved.
    pub fn find(symbols: &KernelSymbols) -> Result<Self> {
        let names = [
            (cond::RETURN_RETBLEED, "retbleed_return_thunk"),
            (cond::RETURN_SRSO, "srso_return_thunk"),
            (cond::RETURN_SRSO_ALIAS, "srso_alias_return_thunk"),
            (cond::RETURN_ITS, "its_return_thunk"),
        ];
        let others = names.iter().filter_map(|(c, name)| symbols.get(name).map(|a| (*c, a))).collect();
        Ok(Self { link: symbols.need("__x86_return_thunk")?, others })
    }

    /// Whether one of them is at this address.
    pub fn has(&self, address: u64) -> bool {
        self.link == address || self.others.iter().any(|(_, a)| *a == address)
    }
}

/// All values of a return site (5 bytes) at `site`; the first is the linked form.
pub fn return_variants(site: Address, thunks: &ReturnThunks) -> Vec<Variant> {
    let plain = || Code::plain([0xc3, 0xcc, 0xcc, 0xcc, 0xcc]);
    let jump = |target| Code::branch(0xe9, Address::kernel(target));
    let mut out = vec![Variant::new(cond::BASE, jump(thunks.link)), Variant::new(cond::RETURN_PLAIN, plain())];
    for (cond, thunk) in &thunks.others {
        // Returns in the upper half of a cache line are not affected by indirect target selection.
        let code = if *cond == cond::RETURN_ITS && upper_half(site) { plain() } else { jump(*thunk) };
        out.push(Variant::new(*cond, code));
    }
    out
}

/// Whether an address lies in the upper half of a cache line. Variables are page-aligned.
pub fn upper_half(site: Address) -> bool {
    site.value & 0x20 != 0
}

/// A branch through a register, as linked: `call` or `jmp` to `__x86_indirect_thunk_<reg>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Retpoline {
    /// Whether it is a jump.
    pub jump: bool,
    /// Number of the register.
    pub register: u8,
    /// Length: 5, or 6 with a CS prefix.
    pub len: usize,
}

impl Retpoline {
    /// Size of a slot of `__x86_indirect_thunk_array`.
    pub const SLOT: u64 = 32;

    /// Recognises the linked form: `e8`/`e9`, CS-prefixed for 6 bytes, to slot `target - array`. `bytes` begin at
    /// the site.
    pub fn read(bytes: &[u8], target: u64, array: u64) -> Result<Self> {
        let (len, opcode) = match bytes {
            [0x2e, op, ..] => (6, *op),
            [op, ..] => (5, *op),
            [] => bail!("empty retpoline site"),
        };
        let jump = match opcode {
            0xe8 => false,
            0xe9 => true,
            other => bail!("retpoline site with opcode {other:#x}"),
        };
        let slot = target.wrapping_sub(array);
        // A branch through RSP does not exist.
        if !slot.is_multiple_of(Self::SLOT) || slot / Self::SLOT > 15 || slot / Self::SLOT == 4 {
            bail!("retpoline site that targets {target:#x}, no indirect thunk");
        }
        Ok(Self { jump, register: (slot / Self::SLOT) as u8, len })
    }

    /// All values of the site; the first is the linked form.
    pub fn variants(self, flavor: Flavor, array: u64) -> Vec<Variant> {
        let thunk = Address::kernel(array + self.register as u64 * Self::SLOT);
        let branch = Code::branch(if self.jump { 0xe9 } else { 0xe8 }, thunk);
        let link = match self.len {
            6 => Code::plain([0x2e, 0, 0, 0, 0, 0]).overlaid(1, &branch),
            _ => branch,
        };
        let mut out = vec![Variant::new(cond::BASE, link)];
        for (cond, lfence) in [(cond::INDIRECT_PLAIN, false), (cond::INDIRECT_LFENCE, true)] {
            let fence: &[u8] = if lfence { &[0x0f, 0xae, 0xe8] } else { &[] };
            let mut branch = if self.register >= 8 { vec![0x41] } else { Vec::new() };
            branch.extend([0xff, if self.jump { 0xe0 } else { 0xd0 } + (self.register & 7)]);
            // What does not fit is left alone.
            let Some(left) = self.len.checked_sub(fence.len() + branch.len()) else {
                out.push(Variant::new(cond, out[0].code.clone()));
                continue;
            };
            let (prefixes, traps) = match (flavor.padding, self.jump) {
                (Padding::Nops, false) => (0, 0),
                (Padding::Nops, true) => (0, left.min(1)),
                (Padding::Prefixes, false) => (left, 0),
                (Padding::Prefixes, true) => (0, left),
            };
            let bytes = [fence, &vec![0x2e; prefixes], &branch, &vec![0xcc; traps]].concat();
            out.push(Variant::new(cond, optimized(flavor.patching, Code::plain(bytes).padded(self.len, 0x90))));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARRAY: u64 = 0xffff_ffff_81e0_0000;

    fn forms(jump: bool, register: u8, len: usize) -> Vec<Vec<u8>> {
        forms_of(Flavor::V6_12, jump, register, len)
    }

    fn forms_of(flavor: Flavor, jump: bool, register: u8, len: usize) -> Vec<Vec<u8>> {
        let r = Retpoline { jump, register, len };
        let v = r.variants(flavor, ARRAY);
        v.iter().map(|v| v.code.bytes.clone()).collect()
    }

    #[test]
    fn retpoline_forms_of_7() {
        let forms = |jump, register, len| forms_of(Flavor::V7_3, jump, register, len)[1..].to_vec();
        assert_eq!(forms(false, 0, 5), [[0x2e, 0x2e, 0x2e, 0xff, 0xd0], [0x0f, 0xae, 0xe8, 0xff, 0xd0]]);
        assert_eq!(forms(true, 2, 5), [[0xff, 0xe2, 0xcc, 0xcc, 0xcc], [0x0f, 0xae, 0xe8, 0xff, 0xe2]]);
        assert_eq!(forms(false, 11, 6), [[0x2e, 0x2e, 0x2e, 0x41, 0xff, 0xd3], [0x0f, 0xae, 0xe8, 0x41, 0xff, 0xd3]]);
    }

    #[test]
    fn retpoline_forms() {
        assert_eq!(forms(false, 0, 5)[1..], [vec![0xff, 0xd0, 0x0f, 0x1f, 0], vec![0x0f, 0xae, 0xe8, 0xff, 0xd0]]);
        assert_eq!(forms(true, 2, 5)[1..], [vec![0xff, 0xe2, 0xcc, 0x66, 0x90], vec![0x0f, 0xae, 0xe8, 0xff, 0xe2]]);
        let r11 = [vec![0x41, 0xff, 0xd3, 0x0f, 0x1f, 0], vec![0x0f, 0xae, 0xe8, 0x41, 0xff, 0xd3]];
        assert_eq!(forms(false, 11, 6)[1..], r11);
        let r8 = forms(true, 8, 5);
        assert_eq!(r8[1], [0x41, 0xff, 0xe0, 0xcc, 0x90]);
        assert_eq!(r8[2], r8[0], "six bytes do not fit in five");
    }

    #[test]
    fn retpoline_sites_are_recognised() {
        let want = Retpoline { jump: false, register: 9, len: 6 };
        assert_eq!(Retpoline::read(&[0x2e, 0xe8, 0, 0, 0, 0], ARRAY + 9 * 32, ARRAY).unwrap(), want);
        assert!(Retpoline::read(&[0xe8, 0, 0, 0, 0], ARRAY + 4 * 32, ARRAY).is_err());
        assert!(Retpoline::read(&[0xe8, 0, 0, 0, 0], ARRAY + 8, ARRAY).is_err());
        assert!(Retpoline::read(&[0xeb, 0, 0, 0, 0], ARRAY, ARRAY).is_err());
    }

    #[test]
    fn returns_in_the_upper_half_of_a_line_are_plain_with_its() {
        let thunks = ReturnThunks { link: ARRAY, others: vec![(cond::RETURN_SRSO, 8), (cond::RETURN_ITS, 9)] };
        let low = return_variants(Address::kernel(0x1000), &thunks);
        let high = return_variants(Address::kernel(0x1020), &thunks);
        assert_eq!(low[3].code, Code::branch(0xe9, Address::kernel(9)));
        assert_eq!(high[3].code.bytes, [0xc3, 0xcc, 0xcc, 0xcc, 0xcc]);
        assert_eq!(low[..3], high[..3]);
    }
}
