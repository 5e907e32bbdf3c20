//! Alternatives: what `apply_alternatives()` may leave at a site, by kernel generation
//!
//! A site has its linked form, the forms other mechanisms give it before alternatives are applied (paravirt
//! calls, return thunks), and one replacement per entry. The last entry whose feature test holds decides.
use anyhow::{Result, bail};
use secvisor_approval::wire::cond;

use crate::bytes::hex;
use crate::code::{Address, Code, FieldKind, Variant};
use crate::flavor::Patching;
use crate::{insn, nops};

/// `X86_FEATURE_ALWAYS`: an entry with it is always applied.
pub const ALWAYS: u16 = 3 * 32 + 21;
/// Behind the largest CPU feature number an image may use; Linux has about 24 words of 32.
const MAX_FEATURE: u16 = 64 * 32;

/// What an entry puts at its site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// The replacement's bytes, moved to the site.
    Move(Code),
    /// A direct call in the place of `call *pv_ops.x` (`ALT_FLAG_DIRECT_CALL`).
    Call(Address),
    /// Nothing: a direct call of `nop_func`.
    Nops,
}

/// An entry of `.altinstructions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the CPU feature.
    pub cpuid: u16,
    /// Whether the entry applies when the feature is absent.
    pub not: bool,
    /// What it puts there.
    pub replacement: Replacement,
}

/// A raw entry of `.altinstructions`, without its two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawEntry {
    /// Number of the CPU feature.
    pub cpuid: u16,
    /// Whether the entry applies when the feature is absent.
    pub not: bool,
    /// Whether the replacement is a call to be made direct.
    pub direct_call: bool,
    /// Length of the site.
    pub len: usize,
    /// Length of the replacement.
    pub replacement_len: usize,
}

/// Decodes an entry behind its two 4-byte offsets.
pub fn read_entry(patching: Patching, raw: &[u8]) -> Result<RawEntry> {
    let half = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
    let entry = match patching {
        Patching::V6_1 => RawEntry {
            cpuid: half(8) & !0x8000,
            not: half(8) & 0x8000 != 0,
            direct_call: false,
            len: raw[10] as usize,
            replacement_len: raw[11] as usize,
        },
        Patching::V6_8 | Patching::V6_12 => RawEntry {
            cpuid: half(8),
            not: half(10) & 1 != 0,
            direct_call: half(10) & 2 != 0,
            len: raw[12] as usize,
            replacement_len: raw[13] as usize,
        },
    };
    if patching != Patching::V6_1 && half(10) & !3 != 0 {
        bail!("alternative with unknown flags {:#x}", half(10));
    }
    if entry.cpuid >= MAX_FEATURE {
        bail!("alternative with impossible CPU feature {:#x}", entry.cpuid);
    }
    if entry.replacement_len > entry.len || entry.len == 0 {
        bail!("alternative of {} bytes with a replacement of {}", entry.len, entry.replacement_len);
    }
    Ok(entry)
}

/// All values of a site. `link` is the linked form; `before` what the site may hold when alternatives are applied,
/// in order of precedence (`[(BASE, link)]` unless another mechanism has been there); `entries` in table order.
/// The first variant is the linked form.
pub fn variants(
    patching: Patching,
    site: Address,
    link: &Code,
    before: &[Variant],
    entries: &[Entry],
) -> Result<Vec<Variant>> {
    let len = link.len();
    let mut out = vec![Variant::new(cond::BOOT_ONLY, link.clone())];
    // Once an entry always applies, what stands before it is passing at most.
    let always = entries.iter().rposition(|e| e.cpuid == ALWAYS && !e.not);
    for form in before {
        out.push(Variant::new(cond::BOOT_ONLY, form.code.clone()));
        // NOPs are merged where an entry does not apply.
        match always {
            None => out.push(Variant::new(form.cond, optimized(patching, form.code.clone()))),
            Some(0) => {}
            Some(_) => out.push(Variant::new(cond::BOOT_ONLY, optimized(patching, form.code.clone()))),
        }
    }
    for (i, entry) in entries.iter().enumerate() {
        if entry.cpuid == ALWAYS && entry.not {
            continue;
        }
        let cond = match always {
            Some(a) if i < a => cond::BOOT_ONLY,
            Some(a) if i == a => cond::BASE,
            _ => entry.cpuid | if entry.not { cond::NOT } else { 0 },
        };
        let moved = moved(patching, site, &entry.replacement, len)?;
        let finished = optimized(patching, moved.clone());
        // 6.1 writes the padded bytes first and merges the NOPs in place; later kernels write the result.
        if patching == Patching::V6_1 && moved != finished {
            out.push(Variant::new(cond::BOOT_ONLY, moved));
        }
        out.push(Variant::new(cond, finished));
    }
    Ok(without_repeats(out))
}

/// Drops passing forms that another variant covers; the linked form stays first.
fn without_repeats(mut variants: Vec<Variant>) -> Vec<Variant> {
    // The linked form is final too if nothing applies: the first final form, when it has the same bytes.
    let first_final = variants.iter().position(|v| v.cond != cond::BOOT_ONLY);
    if let Some(i) = first_final.filter(|i| *i > 0 && variants[*i].code == variants[0].code) {
        variants[0].cond = variants[i].cond;
        variants.remove(i);
    }
    let mut i = 1;
    while i < variants.len() {
        let v = &variants[i];
        let passing = v.cond == cond::BOOT_ONLY;
        if passing && variants.iter().enumerate().any(|(j, w)| j != i && w.code == v.code) {
            variants.remove(i);
        } else {
            i += 1;
        }
    }
    variants
}

/// A replacement at its site, padded to the site's length, before NOPs are merged.
fn moved(patching: Patching, site: Address, replacement: &Replacement, len: usize) -> Result<Code> {
    let code = match replacement {
        Replacement::Nops => Code::default(),
        Replacement::Call(target) => Code::branch(0xe8, *target),
        Replacement::Move(code) => {
            code.check_movable()?;
            match patching {
                Patching::V6_1 => moved_6_1(site, code)?,
                Patching::V6_8 | Patching::V6_12 => moved_6_8(site, code)?,
            }
        }
    };
    if code.len() > len {
        bail!("replacement of {} bytes at a site of {len}", code.len());
    }
    Ok(code.padded(len, 0x90))
}

/// 6.1 moves a lone 5-byte call or jump and nothing else.
fn moved_6_1(site: Address, code: &Code) -> Result<Code> {
    let lone = code.len() == 5 && matches!(code.bytes[0], 0xe8 | 0xe9);
    if !lone {
        if code.fields.iter().any(|f| f.kind == FieldKind::Rel32) {
            bail!("replacement that this kernel does not move correctly: {}", hex(&code.bytes));
        }
        if code.len() == 5 && code.bytes[0] == 0xeb {
            // recompute_jump() would take it for a long one.
            bail!("replacement that begins with a short jump: {}", hex(&code.bytes));
        }
        return Ok(code.clone());
    }
    let Some(field) = code.field(1) else {
        bail!("branch into its own replacement: {}", hex(&code.bytes));
    };
    // recompute_jump(): only short forward jumps become two bytes.
    match (code.bytes[0], field.target.distance_from(site)) {
        (0xe9, Some(ahead)) if (0..=129).contains(&ahead) => {
            let rel = ahead as i32 as u8;
            Ok(Code::plain([0xeb, rel.wrapping_sub(2), 0x0f, 0x1f, 0x00]))
        }
        _ => Ok(code.clone()),
    }
}

/// 6.8 and later move every branch and RIP-relative operand, and shorten jumps that can be.
fn moved_6_8(site: Address, code: &Code) -> Result<Code> {
    let mut out = code.clone();
    for insn in insn::all(&code.bytes)? {
        if insn.opcode[0] != 0xe9 {
            continue;
        }
        let Some(field) = insn.relative.and_then(|r| code.field(r.pos)) else {
            bail!("long jump inside a replacement: {}", hex(&code.bytes));
        };
        let next = site.plus(insn.end() as i64);
        let Some(distance) = field.target.distance_from(next) else { continue };
        if let Ok(short) = i8::try_from(distance + 3) {
            let mut jump = vec![0xcc; insn.len];
            jump[..2].copy_from_slice(&[0xeb, short as u8]);
            out = out.overlaid(insn.pos, &Code::plain(jump));
        }
    }
    Ok(out)
}

/// Code with its NOPs merged.
pub fn optimized(patching: Patching, mut code: Code) -> Code {
    nops::optimize(patching, &mut code.bytes);
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relocs::Relocs;

    const SITE: u64 = 0xffff_ffff_8100_0100;

    fn at(value: u64) -> Address {
        Address::kernel(value)
    }

    fn plain(cpuid: u16, bytes: &[u8]) -> Entry {
        Entry { cpuid, not: false, replacement: Replacement::Move(Code::plain(bytes)) }
    }

    fn shown(variants: &[Variant]) -> Vec<(u16, Vec<u8>)> {
        variants.iter().map(|v| (v.cond, v.code.at(SITE).unwrap())).collect()
    }

    fn run(patching: Patching, link: &[u8], entries: &[Entry]) -> Vec<(u16, Vec<u8>)> {
        let link = Code::linked(link, SITE, &Relocs::default()).unwrap();
        shown(&variants(patching, at(SITE), &link, &[Variant::new(cond::BASE, link.clone())], entries).unwrap())
    }

    #[test]
    fn clac_over_nops() {
        let entry = plain(9 * 32 + 20, &[0x0f, 0x01, 0xca]);
        let want = [
            (cond::BOOT_ONLY, vec![0x90, 0x90, 0x90]),
            (cond::BASE, vec![0x0f, 0x1f, 0x00]),
            (9 * 32 + 20, vec![0x0f, 0x01, 0xca]),
        ];
        assert_eq!(run(Patching::V6_1, &[0x90; 3], std::slice::from_ref(&entry)), want);
        assert_eq!(run(Patching::V6_12, &[0x90; 3], &[entry]), want);
    }

    #[test]
    fn only_6_1_shows_the_padded_form() {
        let entry = plain(7, &[0xfa]);
        let orig = [0x48, 0x89, 0xf8];
        let want = [(cond::BASE, orig.to_vec()), (7, vec![0xfa, 0x66, 0x90])];
        assert_eq!(run(Patching::V6_12, &orig, std::slice::from_ref(&entry)), want);
        let padded = (cond::BOOT_ONLY, vec![0xfa, 0x90, 0x90]);
        assert_eq!(run(Patching::V6_1, &orig, &[entry]), [want[0].clone(), padded, want[1].clone()]);
    }

    #[test]
    fn an_entry_that_always_applies_is_the_base() {
        let mut link = vec![0xff, 0x15];
        link.extend([0, 0, 0, 1]);
        let call = Entry { cpuid: ALWAYS, not: false, replacement: Replacement::Call(at(SITE + 0x105)) };
        let native = Entry { not: true, ..plain(8 * 32 + 16, &[0xfb]) };
        let want = [
            (cond::BOOT_ONLY, link.clone()),
            (cond::BASE, vec![0xe8, 0, 1, 0, 0, 0x90]),
            ((8 * 32 + 16) | cond::NOT, vec![0xfb, 0x0f, 0x1f, 0x44, 0, 0]),
        ];
        assert_eq!(run(Patching::V6_12, &link, &[call, native]), want);
        let nothing = Entry { cpuid: ALWAYS, not: false, replacement: Replacement::Nops };
        assert_eq!(run(Patching::V6_12, &link, &[nothing])[1], (cond::BASE, vec![0x66, 0x0f, 0x1f, 0x44, 0, 0]));
    }

    #[test]
    fn jumps_are_shortened_as_each_kernel_does() {
        let jump = |distance: i64| Entry {
            cpuid: 1,
            not: false,
            replacement: Replacement::Move(Code::branch(0xe9, at(SITE.wrapping_add_signed(distance)))),
        };
        let last = |patching, distance| run(patching, &[0x90; 5], &[jump(distance)]).pop().unwrap().1;
        assert_eq!(last(Patching::V6_1, 0x20), [0xeb, 0x1e, 0x0f, 0x1f, 0x00]);
        assert_eq!(last(Patching::V6_12, 0x20), [0xeb, 0x1e, 0xcc, 0xcc, 0xcc]);
        assert_eq!(last(Patching::V6_1, 129), [0xeb, 0x7f, 0x0f, 0x1f, 0x00]);
        assert_eq!(last(Patching::V6_1, 130), [0xe9, 125, 0, 0, 0]);
        assert_eq!(last(Patching::V6_12, 130), [0xe9, 125, 0, 0, 0]);
        assert_eq!(last(Patching::V6_1, -0x20), [0xe9, 0xdb, 0xff, 0xff, 0xff]);
        assert_eq!(last(Patching::V6_12, -0x20), [0xeb, 0xde, 0xcc, 0xcc, 0xcc]);
    }

    #[test]
    fn branches_follow_their_target_when_moved() {
        let repl = Code::linked(&[0xe8, 0, 0x10, 0, 0], SITE + 0x1000, &Relocs::default()).unwrap();
        let entry = Entry { cpuid: 1, not: false, replacement: Replacement::Move(repl) };
        for patching in [Patching::V6_1, Patching::V6_8, Patching::V6_12] {
            let last = run(patching, &[0x90; 5], std::slice::from_ref(&entry)).pop().unwrap().1;
            assert_eq!(last, [0xe8, 0, 0x20, 0, 0]);
        }
    }

    #[test]
    fn entries_decode() {
        let mut raw = [0; 14];
        raw[8..].copy_from_slice(&[0x10, 0x01, 3, 0, 6, 5]);
        let want = RawEntry { cpuid: 0x110, not: true, direct_call: true, len: 6, replacement_len: 5 };
        assert_eq!(read_entry(Patching::V6_12, &raw).unwrap(), want);
        raw[10] = 4;
        assert!(read_entry(Patching::V6_12, &raw).is_err());
        raw[8..12].copy_from_slice(&[0x10, 0x81, 3, 3]);
        let want = RawEntry { cpuid: 0x110, not: true, direct_call: false, len: 3, replacement_len: 3 };
        assert_eq!(read_entry(Patching::V6_1, &raw).unwrap(), want);
    }
}
