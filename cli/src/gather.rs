//! Every place where a kernel patches itself, from its tables; overlaps are united
use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result, bail};
use secvisor_approval::wire::{ConstClass, cond};

use crate::alternatives::{self, Entry, Replacement};
use crate::branches::{Retpoline, return_variants};
use crate::bytes::{hex, i32_at, u64_at};
use crate::code::{Address, Code, Variant};
use crate::kernel::Kernel;
use crate::sites::{Counts, Site, What};

/// All sites in address order.
pub struct Gathered {
    /// The sites.
    pub sites: Vec<Site>,
    /// How many the tables list.
    pub counts: Counts,
}

/// Reads every table and unites what overlaps.
pub fn gather(kernel: &Kernel<'_>) -> Result<Gathered> {
    let mut g = Gather { kernel, sites: Vec::new(), counts: Counts::default(), own_conditions: OWN_CONDITIONS };
    let trampolines = g.trampolines()?;
    let returns = g.returns(&trampolines)?;
    let paravirt = g.paravirt()?;
    g.alternatives(returns, paravirt)?;
    g.retpolines()?;
    g.endbr()?;
    g.locks()?;
    g.static_calls()?;
    g.jump_labels()?;
    g.ftrace()?;
    g.constants()?;
    g.sites.sort_by_key(|s| s.address);
    for pair in g.sites.windows(2) {
        let [a, b] = pair else { continue };
        if a.address + a.len as u64 > b.address {
            let (an, bn) = (a.what.name(), b.what.name());
            bail!("{an} at {:#x} and {bn} at {:#x} overlap, which is unknown", a.address, b.address);
        }
    }
    Ok(Gathered { sites: g.sites, counts: g.counts })
}

struct Gather<'k, 'a> {
    kernel: &'k Kernel<'a>,
    sites: Vec<Site>,
    counts: Counts,
    own_conditions: u16,
}

/// First of the numbers that stand for conditions of one site alone. No CPU feature has them, so nothing but the
/// site itself tells the hypervisor whether they hold.
pub const OWN_CONDITIONS: u16 = cond::SPECIAL - 0x100;

impl Gather<'_, '_> {
    /// Bytes of a site in code that runs. `None` if it lies where nothing runs; an error if that place is unknown.
    fn code(&mut self, address: u64, len: usize) -> Result<Option<&[u8]>> {
        let kernel = self.kernel;
        if let Some(region) = kernel.regions.iter().find(|r| r.contains(address)) {
            let at = (address - region.base) as usize;
            let bytes = region.bytes.get(at..at + len);
            return Ok(Some(bytes.with_context(|| format!("patch site at {address:#x} leaves its region"))?));
        }
        let section = kernel.image.section_at(address).map_or("no section", |s| s.name);
        // Built-in exit code, the sources of replacements and the code that starts the next kernel never run where they
        // are.
        if !matches!(section, ".exit.text" | ".altinstr_replacement") && !kernel.in_relocate_kernel(address) {
            bail!("patch site at {address:#x} in {section}, which is unknown");
        }
        self.counts.outside += 1;
        Ok(None)
    }

    fn push(&mut self, address: u64, len: usize, what: What) {
        self.sites.push(Site { address, len, what });
    }

    /// Addresses a section lists as self-relative offsets; zero entries are padding.
    fn self_relative_list(&self, section: &str) -> Result<Vec<u64>> {
        let Some(s) = self.kernel.image.section(section) else { return Ok(Vec::new()) };
        if s.bytes.len() % 4 != 0 {
            bail!("section {section} has an unknown entry size");
        }
        let entries = s.bytes.chunks_exact(4).enumerate().filter_map(|(i, e)| {
            let offset = i32_at(e, 0).unwrap_or_default() as i64;
            (offset != 0).then(|| (s.address + 4 * i as u64).wrapping_add_signed(offset))
        });
        Ok(entries.collect())
    }

    /// The bytes between two bracket symbols, with their address.
    fn bracketed(&self, start: &str, stop: &str, entry: usize) -> Result<(u64, &[u8])> {
        let (from, to) = (self.kernel.symbols.need(start)?, self.kernel.symbols.need(stop)?);
        let len = to.checked_sub(from).with_context(|| format!("{stop} lies before {start}"))? as usize;
        if !len.is_multiple_of(entry) {
            bail!("the table at {start} has an unknown entry size");
        }
        if len == 0 {
            return Ok((from, &[]));
        }
        Ok((from, self.kernel.image.bytes(from, len)?))
    }

    fn trampolines(&mut self) -> Result<HashSet<u64>> {
        let (start, bytes) = self.bracketed("__static_call_text_start", "__static_call_text_end", 8)?;
        let mut found = Vec::new();
        for (i, t) in bytes.chunks_exact(8).enumerate() {
            let address = start + 8 * i as u64;
            let target = match t {
                [0xe9, _, _, _, _, 0x0f, 0xb9, 0xcc] => {
                    (address + 5).wrapping_add_signed(i32_at(t, 1).unwrap_or_default() as i64)
                }
                _ => bail!("static call trampoline at {address:#x} in an unknown form: {}", hex(t)),
            };
            found.push((address, target));
        }
        self.counts.trampolines = found.len();
        let mut out = HashSet::new();
        for (address, target) in found {
            out.insert(address);
            if self.code(address, 8)?.is_some() {
                self.push(address, 8, What::Trampoline(target));
            }
        }
        Ok(out)
    }

    fn returns(&mut self, trampolines: &HashSet<u64>) -> Result<HashSet<u64>> {
        let list = self.self_relative_list(".return_sites")?;
        self.counts.returns = list.len();
        let thunk = self.kernel.thunks.link;
        for address in &list {
            let bytes = self.kernel.image.bytes(*address, 5)?;
            let target = (address + 5).wrapping_add_signed(i32_at(bytes, 1).unwrap_or_default() as i64);
            if bytes[0] != 0xe9 || target != thunk {
                bail!("return site at {address:#x} holds {}, no jump to the return thunk", hex(bytes));
            }
        }
        Ok(list.into_iter().filter(|a| !trampolines.contains(a)).collect())
    }

    fn paravirt(&mut self) -> Result<BTreeMap<u64, Code>> {
        let mut out = BTreeMap::new();
        let Some(section) = self.kernel.image.section(".parainstructions") else { return Ok(out) };
        if section.bytes.len() % 16 != 0 {
            bail!("section .parainstructions has an unknown entry size");
        }
        for entry in section.bytes.chunks_exact(16) {
            let (address, slot, len) = (u64_at(entry, 0).unwrap_or_default(), entry[8], entry[9]);
            let bytes = self.kernel.image.bytes(address, 6)?;
            let target = (address + 6).wrapping_add_signed(i32_at(bytes, 2).unwrap_or_default() as i64);
            if len != 6 || bytes[..2] != [0xff, 0x15] || target != self.kernel.pv.start() + 8 * slot as u64 {
                bail!("paravirt site at {address:#x} holds {}, no call through slot {slot}", hex(bytes));
            }
            self.counts.paravirt += 1;
            out.insert(address, self.kernel.pv.paravirt(slot)?);
        }
        Ok(out)
    }

    /// Alternatives with the paravirt calls and returns they overlap, then the calls and returns that are left.
    fn alternatives(&mut self, mut returns: HashSet<u64>, mut paravirt: BTreeMap<u64, Code>) -> Result<()> {
        for (address, group) in self.alternative_groups()? {
            let len = group.iter().map(|e| e.raw.len).max().unwrap_or_default();
            self.counts.alternative_entries += group.len();
            self.counts.alternative_sites += 1;
            if self.code(address, len)?.is_none() {
                continue;
            }
            let context = || format!("alternative at {address:#x}");
            let variants = self.alternative(address, len, &group, &mut returns, &mut paravirt);
            self.push(address, len, What::Choice(variants.with_context(context)?));
        }
        let relocs = &self.kernel.relocs;
        for (address, code) in paravirt {
            if let Some(bytes) = self.code(address, 6)? {
                let link = Variant::new(cond::BOOT_ONLY, Code::linked(bytes, address, relocs)?);
                self.push(address, 6, What::Choice(vec![link, Variant::new(cond::BASE, code)]));
            }
        }
        for address in returns {
            if self.code(address, 5)?.is_some() {
                self.push(address, 5, What::Return);
            }
        }
        Ok(())
    }

    fn alternative_groups(&self) -> Result<Vec<(u64, Vec<TableEntry>)>> {
        let size = self.kernel.flavor.patching.alt_entry_len();
        let section = self.kernel.image.need(".altinstructions")?;
        if section.bytes.len() % size != 0 {
            bail!("section .altinstructions has an unknown entry size");
        }
        let mut groups: Vec<(u64, Vec<TableEntry>)> = Vec::new();
        let mut seen = HashSet::new();
        for (i, raw) in section.bytes.chunks_exact(size).enumerate() {
            let at = section.address + (i * size) as u64;
            let offset = |n: usize| i32_at(raw, n).unwrap_or_default() as i64;
            let address = at.wrapping_add_signed(offset(0));
            let replacement = (at + 4).wrapping_add_signed(offset(4));
            let entry = TableEntry { replacement, raw: alternatives::read_entry(self.kernel.flavor.patching, raw)? };
            match groups.last_mut().filter(|g| g.0 == address) {
                Some(group) => group.1.push(entry),
                None if seen.insert(address) => groups.push((address, vec![entry])),
                None => bail!("alternatives for {address:#x} in two places of the table, which is unknown"),
            }
        }
        Ok(groups)
    }

    fn alternative(
        &mut self,
        address: u64,
        len: usize,
        group: &[TableEntry],
        returns: &mut HashSet<u64>,
        paravirt: &mut BTreeMap<u64, Code>,
    ) -> Result<Vec<Variant>> {
        let site = Address::kernel(address);
        let bytes = self.kernel.image.bytes(address, len)?;
        let link = Code::linked(bytes, address, &self.kernel.relocs)?;
        let mut before = vec![Variant::new(cond::BASE, link.clone())];
        if let Some(code) = paravirt.remove(&address) {
            if code.len() != len {
                bail!("paravirt call in a longer alternative, which is unknown");
            }
            before = vec![Variant::new(cond::BASE, code)];
        }
        let inside: Vec<u64> = (address..address + len as u64).filter(|a| returns.remove(a)).collect();
        if let [at] = inside[..] {
            let forms = return_variants(Address::kernel(at), &self.kernel.thunks);
            let over = |v: Variant| Variant::new(v.cond, link.clone().overlaid((at - address) as usize, &v.code));
            before = forms.into_iter().map(over).collect();
        } else if !inside.is_empty() {
            bail!("{} returns in one alternative, which is unknown", inside.len());
        }
        let mut entries = Vec::new();
        for e in group {
            let bytes = self.kernel.image.bytes(e.replacement, e.raw.replacement_len)?;
            let replacement = if e.raw.direct_call {
                self.direct_call(address, len, bytes)?
            } else {
                Replacement::Move(Code::linked(bytes, e.replacement, &self.kernel.relocs)?)
            };
            let end = e.replacement + bytes.len() as u64;
            let inside: Vec<u64> = (e.replacement..end).filter(|a| returns.remove(a)).collect();
            match (&inside[..], replacement) {
                ([], replacement) => entries.push(Entry { cpuid: e.raw.cpuid, not: e.raw.not, replacement }),
                // The return is patched where the replacement lies, before that is moved.
                ([at], Replacement::Move(code)) => {
                    let forms = return_variants(Address::kernel(*at), &self.kernel.thunks);
                    let mut forms: Vec<Code> = forms
                        .into_iter()
                        .map(|v| code.clone().overlaid((at - e.replacement) as usize, &v.code))
                        .collect();
                    let mut seen = HashSet::new();
                    forms.retain(|code| seen.insert(code.clone()));
                    for code in forms {
                        // Feature and kind of return decide together, which one condition cannot say.
                        let cpuid = self.own_conditions;
                        self.own_conditions += 1;
                        entries.push(Entry { cpuid, not: false, replacement: Replacement::Move(code) });
                    }
                }
                _ => bail!("{} returns in the replacement {}, which is unknown", inside.len(), hex(bytes)),
            }
        }
        alternatives::variants(self.kernel.flavor.patching, site, &link, &before, &entries)
    }

    /// `ALT_FLAG_DIRECT_CALL`: the site calls through a slot of `pv_ops`, the replacement calls `BUG_func`.
    fn direct_call(&self, address: u64, len: usize, replacement: &[u8]) -> Result<Replacement> {
        let bytes = self.kernel.image.bytes(address, len)?;
        if len != 6 || bytes[..2] != [0xff, 0x15] || replacement.len() != 5 || replacement[0] != 0xe8 {
            bail!("direct call in an unknown form: {}", hex(bytes));
        }
        let slot = (address + 6).wrapping_add_signed(i32_at(bytes, 2).unwrap_or_default() as i64);
        self.kernel.pv.direct_call(slot)
    }

    fn retpolines(&mut self) -> Result<()> {
        let array = self.kernel.indirect_array;
        for address in self.self_relative_list(".retpoline_sites")? {
            self.counts.retpolines += 1;
            let Some(bytes) = self.code(address, 6)? else { continue };
            let prefix = usize::from(bytes[0] == 0x2e);
            let rel = i32_at(bytes, prefix + 1).with_context(|| format!("retpoline site at {address:#x}"))?;
            let target = (address + prefix as u64 + 5).wrapping_add_signed(rel as i64);
            let retpoline = Retpoline::read(bytes, target, array).with_context(|| format!("site at {address:#x}"))?;
            self.push(address, retpoline.len, What::Retpoline(retpoline));
        }
        Ok(())
    }

    fn endbr(&mut self) -> Result<()> {
        for address in self.self_relative_list(".ibt_endbr_seal")? {
            self.counts.endbr += 1;
            let Some(bytes) = self.code(address, 4)? else { continue };
            if bytes != [0xf3, 0x0f, 0x1e, 0xfa] {
                bail!("ENDBR to be removed at {address:#x} is {}", hex(bytes));
            }
            self.push(address, 4, What::Endbr);
        }
        Ok(())
    }

    fn locks(&mut self) -> Result<()> {
        let (start, end) = (self.kernel.symbols.need("_text")?, self.kernel.symbols.need("_etext")?);
        for address in self.self_relative_list(".smp_locks")? {
            self.counts.locks += 1;
            let Some(bytes) = self.code(address, 1)? else { continue };
            // alternatives_smp_module_add() is given these bounds: init text is left alone.
            if is_lock(bytes[0]).with_context(|| format!("at {address:#x}"))? && (start..end).contains(&address) {
                self.push(address, 1, What::Lock);
            }
        }
        Ok(())
    }

    fn static_calls(&mut self) -> Result<()> {
        let (start, bytes) = self.bracketed("__start_static_call_sites", "__stop_static_call_sites", 8)?;
        let entries: Vec<(u64, bool)> = bytes
            .chunks_exact(8)
            .enumerate()
            .map(|(i, e)| {
                let at = start + 8 * i as u64;
                let address = at.wrapping_add_signed(i32_at(e, 0).unwrap_or_default() as i64);
                (address, i32_at(e, 4).unwrap_or_default() & 1 != 0)
            })
            .collect();
        for (address, tail) in entries {
            self.counts.static_calls += 1;
            let Some(bytes) = self.code(address, 5)? else { continue };
            if bytes[0] != if tail { 0xe9 } else { 0xe8 } {
                bail!("static call at {address:#x} is {}", hex(bytes));
            }
            let target = (address + 5).wrapping_add_signed(i32_at(bytes, 1).unwrap_or_default() as i64);
            self.push(address, 5, if tail { What::StaticJump(target) } else { What::StaticCall(target) });
        }
        Ok(())
    }

    fn jump_labels(&mut self) -> Result<()> {
        let (start, bytes) = self.bracketed("__start___jump_table", "__stop___jump_table", 16)?;
        let entries: Vec<(u64, u64)> = bytes
            .chunks_exact(16)
            .enumerate()
            .map(|(i, e)| {
                let at = start + 16 * i as u64;
                let rel = |n: usize| (at + n as u64).wrapping_add_signed(i32_at(e, n).unwrap_or_default() as i64);
                (rel(0), rel(4))
            })
            .collect();
        for (address, target) in entries {
            self.counts.jump_labels += 1;
            let Some(bytes) = self.code(address, 5)? else { continue };
            let unknown = || format!("jump label at {address:#x} is {}", hex(bytes));
            let len = match bytes {
                [0x66, 0x90, ..] | [0xeb, ..] => 2,
                [0x0f, 0x1f, 0x44, 0, 0] | [0xe9, ..] => 5,
                _ => bail!(unknown()),
            };
            let rel = target.wrapping_sub(address + len as u64) as i64;
            let fits = if len == 2 { i8::try_from(rel).is_ok() } else { i32::try_from(rel).is_ok() };
            let linked = match bytes[0] {
                0xeb => bytes[1] as i8 as i64 == rel,
                0xe9 => i32_at(bytes, 1).unwrap_or_default() as i64 == rel,
                _ => true,
            };
            if !fits || !linked {
                bail!("{}, which does not lead to {target:#x}", unknown());
            }
            self.push(address, len, What::Jump(rel as i32));
        }
        Ok(())
    }

    fn ftrace(&mut self) -> Result<()> {
        let fentry = self.kernel.symbols.need("__fentry__")?;
        let (_, table) = self.bracketed("__start_mcount_loc", "__stop_mcount_loc", 8)?;
        let list: Vec<u64> = table.chunks_exact(8).filter_map(|e| u64_at(e, 0)).collect();
        for address in list {
            self.counts.ftrace += 1;
            // Weak functions that lost leave a zero.
            if address == 0 {
                continue;
            }
            let Some(bytes) = self.code(address, 5)? else { continue };
            let target = (address + 5).wrapping_add_signed(i32_at(bytes, 1).unwrap_or_default() as i64);
            if bytes[0] != 0xe8 || target != fentry {
                bail!("function entry at {address:#x} is {}, no call of __fentry__", hex(bytes));
            }
            self.push(address, 5, What::Ftrace);
        }
        for name in ["ftrace_call", "ftrace_regs_call"] {
            let address = self.kernel.symbols.need(name)?;
            let Some(bytes) = self.code(address, 5)? else { continue };
            if bytes[0] != 0xe8 {
                bail!("{name} is {}, no call", hex(bytes));
            }
            self.push(address, 5, What::FtraceCall);
        }
        Ok(())
    }

    fn constants(&mut self) -> Result<()> {
        let kernel = self.kernel;
        for section in kernel.image.sections.iter().map(|s| s.name).filter(|name| name.starts_with("runtime_")) {
            let (name, class) = constant(section)?;
            let linked: u64 = match class {
                ConstClass::Shift => 12,
                ConstClass::Mask => 0x1234_5678,
                ConstClass::Pointer | ConstClass::UserPtrMax => 0x0123_4567_89ab_cdef,
            };
            for address in self.self_relative_list(section)? {
                self.counts.constants += 1;
                let len = class.width();
                let Some(bytes) = self.code(address, len)? else { continue };
                if bytes != &linked.to_le_bytes()[..len] {
                    bail!("run-time constant {name} at {address:#x} is {}", hex(bytes));
                }
                self.push(address, len, What::Const(class, name.to_owned(), linked));
            }
        }
        Ok(())
    }
}

/// The name and the class of the run-time constants a section lists. The macro that lists them is named after what
/// Linux puts there (`asm/runtime-const.h`).
fn constant(section: &str) -> Result<(&str, ConstClass)> {
    match section.strip_prefix("runtime_").and_then(|s| s.split_once('_')) {
        // The end of user space: the only pointer that is none of the kernel's.
        Some(("ptr", name @ "USER_PTR_MAX")) => Ok((name, ConstClass::UserPtrMax)),
        Some(("ptr", name)) => Ok((name, ConstClass::Pointer)),
        Some(("shift", name)) => Ok((name, ConstClass::Shift)),
        Some(("mask", name)) => Ok((name, ConstClass::Mask)),
        _ => bail!("section {section} holds run-time constants of an unknown kind"),
    }
}

/// Whether Linux replaces the byte where `.smp_locks` says that an instruction with a LOCK prefix begins. Newer
/// assemblers put the prefix of a 16-bit instruction first; Linux then leaves the site alone.
pub fn is_lock(byte: u8) -> Result<bool> {
    match byte {
        0xf0 => Ok(true),
        0x66 => Ok(false),
        other => bail!("{other:02x} is no LOCK prefix"),
    }
}

/// An entry of `.altinstructions` with its replacement's address.
struct TableEntry {
    replacement: u64,
    raw: alternatives::RawEntry,
}
