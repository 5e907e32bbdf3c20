//! The AP trampoline: the code another CPU runs first, in real mode
//!
//! Linux copies `real_mode_blob` to a page-aligned place below 1 MiB and relocates it by `real_mode_relocs`: a count and
//! the offsets of 16-bit fields that become the place's segment, then a count and the offsets of 32-bit fields to which
//! the place's address is added (`arch/x86/realmode/init.c`). The blob's header says which of its pages are code, and
//! nothing else of it is ever executable.
use anyhow::{Context, Result, ensure};
use secvisor_approval::PAGE;
use secvisor_approval::build::{Builder, RegionDef, SiteDef, SymbolDef};
use secvisor_approval::wire::{LOW_END, RegionKind, SiteKind, VarClass};

use crate::bytes::{u16_at, u32_at};
use crate::elf::Image;
use crate::symbols::KernelSymbols;

/// What the approval calls it, as if it were a module.
pub const NAME: &str = "realmode";

/// Positions in the blob's header (`struct real_mode_header`).
const TEXT_START: usize = 0;
const RO_END: usize = 4;
const TRAMPOLINE_START: usize = 8;

/// The trampoline's code as it is linked.
pub struct Trampoline {
    /// Offset of the code in the blob.
    pub start: usize,
    /// Whole pages.
    pub text: Vec<u8>,
    /// Offset in the code of the first instruction a CPU executes.
    pub entry: usize,
    /// Relocated fields in the code, by their offset in it.
    fields: Vec<Field>,
}

/// A relocated field.
#[derive(Clone, Copy)]
struct Field {
    at: usize,
    kind: SiteKind,
    /// What is added to the blob's address.
    addend: u32,
}

impl Field {
    fn len(&self) -> usize {
        if self.kind == SiteKind::Segment { 2 } else { 4 }
    }
}

impl Trampoline {
    /// Finds it by its symbols.
    pub fn find(image: &Image<'_>, symbols: &KernelSymbols) -> Result<Self> {
        let (start, end) = (symbols.need("real_mode_blob")?, symbols.need("real_mode_blob_end")?);
        let len = end.checked_sub(start).filter(|len| *len < LOW_END);
        let blob = image.bytes(start, len.context("the kernel's real_mode_blob has an impossible length")? as usize)?;
        let relocs = symbols.need("real_mode_relocs")?;
        let section = image.section_at(relocs).context("the kernel's real_mode_relocs are in no section")?;
        Self::parse(blob, &section.bytes[(relocs - section.address) as usize..]).context("the kernel's real_mode_blob")
    }

    /// Reads it from the blob and the relocations.
    pub fn parse(blob: &[u8], relocs: &[u8]) -> Result<Self> {
        let header = |at| u32_at(blob, at).map(|v| v as usize).context("is too short for its header");
        let (start, end) = (header(TEXT_START)?, header(RO_END)?);
        let end = end.next_multiple_of(PAGE);
        let known = start.is_multiple_of(PAGE) && start > TRAMPOLINE_START && start < end;
        ensure!(known, "has an unknown header: code from {start:#x} to {end:#x}");
        let text = blob.get(start..end).with_context(|| format!("ends before its code, at {:#x}", blob.len()))?;
        let entry = header(TRAMPOLINE_START)?;
        let starts = (start..end).contains(&entry) && entry.is_multiple_of(PAGE);
        ensure!(starts, "starts at {entry:#x}, which is unknown");

        let mut all = Vec::new();
        let mut words = relocs.chunks_exact(4).map(|w| u32_at(w, 0).unwrap_or_default());
        let mut next = || words.next().context("has truncated relocations (real_mode_relocs)");
        for kind in [SiteKind::Segment, SiteKind::Abs32] {
            for _ in 0..next()? {
                let at = next()? as usize;
                let value = match kind {
                    SiteKind::Segment => u16_at(blob, at).map(u32::from),
                    _ => u32_at(blob, at),
                };
                let addend = value.with_context(|| format!("has a relocation at {at:#x}, behind its end"))?;
                all.push(Field { at, kind, addend });
            }
        }
        all.sort_by_key(|f| f.at);
        for pair in all.windows(2) {
            ensure!(pair[0].at + pair[0].len() <= pair[1].at, "has overlapping relocations at {:#x}", pair[1].at);
        }
        for at in [TEXT_START, RO_END, TRAMPOLINE_START] {
            let address = all.iter().any(|f| f.at == at && f.kind == SiteKind::Abs32);
            ensure!(address, "has an unknown header: no address at {at:#x}");
        }

        let mut fields = Vec::new();
        for field in all.into_iter().filter(|f| f.at < end && f.at + f.len() > start) {
            let Field { at, addend, .. } = field;
            ensure!(at >= start && at + field.len() <= end, "has a relocation at {at:#x}, across its code's border");
            // A segment is that of the blob; an address is one in it.
            let limit = if field.kind == SiteKind::Segment { 1 } else { blob.len() };
            ensure!((addend as usize) < limit, "has a field of {addend:#x} at {at:#x}, which is unknown");
            fields.push(Field { at: at - start, ..field });
        }
        Ok(Self { start, text: text.to_vec(), entry: entry - start, fields })
    }

    /// Writes it into an approval that holds the kernel's regions, as the first module.
    pub fn emit(&self, builder: &mut Builder) -> Result<()> {
        let (module, base) = builder.module(NAME, &[VarClass::Low]);
        builder.begin_module(module);
        // Addresses count from the blob, which begins before the code.
        let index = builder.local_expr(base, (self.start as u64).wrapping_neg())?;
        let site = |f: &Field| SiteDef { offset: f.at as u64, kind: f.kind, index, arg: f.addend as i32 };
        // Not a function: no static call leads here.
        let name = "trampoline_start".to_owned();
        Ok(builder.region(RegionDef {
            module,
            kind: RegionKind::ModuleText,
            base: base as u64,
            bytes: self.text.clone(),
            sites: self.fields.iter().map(site).collect(),
            symbols: vec![SymbolDef { offset: self.entry as u32, name, function: false }],
        })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 5 * PAGE + 0x264;

    /// Code on two pages, from the second on.
    fn blob() -> Vec<u8> {
        let mut blob = vec![0; LEN];
        let mut put = |at: usize, value: u32| blob[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(TEXT_START, 0x1000);
        put(RO_END, 0x20f4);
        put(TRAMPOLINE_START, 0x1000);
        put(0x1038, 0x1ff0);
        put(0x2041, 0x5008);
        put(0x40, 0x9b00_0000);
        blob
    }

    fn relocs(short: &[u32], long: &[u32]) -> Vec<u8> {
        let list = [&[short.len() as u32], short, &[long.len() as u32], long].concat();
        list.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    const SHORT: [u32; 2] = [0x1006, 0x1054];
    const LONG: [u32; 6] = [0, 4, 8, 0x40, 0x1038, 0x2041];

    fn refused(blob: &[u8], relocs: &[u8]) -> String {
        Trampoline::parse(blob, relocs).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn fields_in_the_code_become_sites() {
        // What follows the relocations is not theirs.
        let t = Trampoline::parse(&blob(), &[relocs(&SHORT, &LONG), vec![0xee; 40]].concat()).unwrap();
        assert_eq!((t.start, t.text.len(), t.entry), (0x1000, 0x2000, 0));
        let fields: Vec<_> = t.fields.iter().map(|f| (f.at, f.kind, f.addend)).collect();
        let want = [
            (6, SiteKind::Segment, 0),
            (0x38, SiteKind::Abs32, 0x1ff0),
            (0x54, SiteKind::Segment, 0),
            (0x1041, SiteKind::Abs32, 0x5008),
        ];
        assert_eq!(fields, want);
    }

    #[test]
    fn unknown_headers_are_refused_by_name() {
        let good = relocs(&SHORT, &LONG);
        let changes: [(usize, u32, &str); 9] = [
            (TEXT_START, 0, "unknown header"),
            (TEXT_START, 0x1004, "unknown header"),
            (TEXT_START, 0x4000, "unknown header"),
            (RO_END, 0x1000, "unknown header"),
            (RO_END, 0x6000, "ends before its code"),
            (RO_END, u32::MAX, "ends before its code"),
            (TRAMPOLINE_START, 0x1800, "starts at 0x1800"),
            (TRAMPOLINE_START, 0, "starts at 0x0"),
            (TRAMPOLINE_START, 0x3000, "starts at 0x3000"),
        ];
        for (at, value, want) in changes {
            let mut changed = blob();
            changed[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let got = refused(&changed, &good);
            assert!(got.contains(want), "{at} {value:#x}: {got}");
        }
        assert!(refused(&blob()[..7], &good).contains("too short"));
        assert!(refused(&blob()[..0x2fff], &good).contains("ends before"));
    }

    #[test]
    fn unknown_relocations_are_refused_by_name() {
        let long = |more: &[u32]| [&LONG[..], more].concat();
        let cases = [
            (relocs(&SHORT, &LONG)[..39].to_vec(), "truncated relocations"),
            (Vec::new(), "truncated relocations"),
            (vec![0xff; 64], "behind its end"),
            (relocs(&SHORT, &long(&[LEN as u32 - 3])), "behind its end"),
            (relocs(&[LEN as u32 - 1], &LONG), "behind its end"),
            (relocs(&SHORT, &long(&[u32::MAX])), "behind its end"),
            (relocs(&SHORT, &long(&[0x103b])), "overlapping relocations"),
            (relocs(&SHORT, &long(&[0x1007])), "overlapping relocations"),
            (relocs(&[0x1006, 0x1006], &LONG), "overlapping relocations"),
            (relocs(&SHORT, &LONG[1..]), "no address at 0x0"),
            (relocs(&SHORT, &[0, 8, 0x1038]), "no address at 0x4"),
            (relocs(&[8], &LONG[..2]), "no address at 0x8"),
            (relocs(&SHORT, &long(&[0xffe])), "across its code's border"),
            (relocs(&[0x2fff], &LONG), "across its code's border"),
            (relocs(&[0x1039], &LONG[..3]), "unknown"),
        ];
        for (i, (relocs, want)) in cases.into_iter().enumerate() {
            let got = refused(&blob(), &relocs);
            assert!(got.contains(want), "{i}: {got}");
        }
        let mut far = blob();
        far[0x1038..0x103c].copy_from_slice(&(LEN as u32).to_le_bytes());
        assert!(refused(&far, &relocs(&SHORT, &LONG)).contains("has a field of 0x5264 at 0x1038"));
    }
}
