//! The places of a module's code that may differ from its bytes
//!
//! A module's code is plain data until the loader has relocated it and patched it for this CPU
//! (`module_finalize()`, `ftrace_module_init()`); only then does it become executable. So of everything Linux
//! patches at load, only finished forms are listed; jump labels and static calls change later too.
use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, bail, ensure};
use secvisor_approval::wire::{KERNEL, SiteKind, cond};

use super::image::{Image, Width};
use super::layout::Block;
use super::link::Linked;
use super::tables::{Alternative, Tables};
use crate::alternatives::{self, Entry, Replacement};
use crate::branches::{Retpoline, return_variants};
use crate::code::{Address, Code, Variant};
use crate::flavor::Patching;
use crate::gather::is_lock;
use crate::kernel::Kernel;
use crate::nops::NOP5;

/// What a site may hold.
#[derive(Clone, Debug)]
pub enum What {
    /// A field with an address.
    Field(Width, Address),
    /// One of these.
    Choice(Vec<Variant>),
    /// A return.
    Return,
    /// An indirect branch.
    Retpoline(Retpoline),
    /// A LOCK prefix.
    Lock,
    /// A jump label, with its displacement.
    Jump(SiteKind, i32),
    /// A traced function's entry.
    Ftrace,
    /// A static call, or its trampoline, with the target at link time.
    Call(SiteKind, Address),
}

/// A site, placed by its offset in the block.
#[derive(Clone, Debug)]
pub struct Site {
    /// Offset.
    pub offset: u64,
    /// Length in bytes.
    pub len: usize,
    /// What it may hold.
    pub what: What,
}

/// Finds the sites of a module's images, and brings their bytes to the form they have after loading where there is
/// only one. The sites are sorted and do not overlap.
pub fn find(linked: &Linked<'_>, kernel: &Kernel<'_>, images: &mut [Image]) -> Result<Vec<Vec<Site>>> {
    let tables = Tables::read(linked, kernel.flavor.patching)?;
    let mut finder = Finder { kernel, images, sites: Vec::new(), returns: tables.returns.iter().copied().collect() };
    finder.sites.resize_with(finder.images.len(), Vec::new);
    finder.trampolines(linked).context("static call trampolines")?;
    finder.alternatives(&tables).context("alternatives")?;
    finder.branches(&tables).context("returns and retpolines")?;
    finder.traced(&tables).context("traced functions")?;
    finder.jumps(&tables).context("jump labels")?;
    finder.static_calls(&tables).context("static calls")?;
    finder.locks(linked, &tables).context("lock prefixes")?;
    finder.sealed(&tables).context("sealed functions")?;
    finder.rest();
    let mut sites = finder.sites;
    for list in &mut sites {
        list.sort_by_key(|s| s.offset);
        for pair in list.windows(2) {
            let apart = pair[0].offset + pair[0].len as u64 <= pair[1].offset;
            ensure!(apart, "patch sites overlap: {:x?} and {:x?}", pair[0], pair[1]);
        }
    }
    Ok(sites)
}

struct Finder<'a> {
    kernel: &'a Kernel<'a>,
    images: &'a mut [Image],
    sites: Vec<Vec<Site>>,
    /// Return sites that are not part of another site.
    returns: HashSet<Address>,
}

impl Finder<'_> {
    /// The image an address lies in, by number.
    fn image(&self, at: Address) -> Result<usize> {
        let found = self.images.iter().position(|i| i.var == at.var && at.value < i.bytes.len() as u64);
        found.with_context(|| format!("one lies outside the module's code ({:#x})", at.value))
    }

    fn add(&mut self, image: usize, offset: u64, len: usize, what: What) {
        self.sites[image].push(Site { offset, len, what });
    }

    /// The code of a site, whose fields then belong to it.
    fn take(&mut self, at: Address, len: usize) -> Result<(usize, Code)> {
        let image = self.image(at)?;
        Ok((image, self.images[image].take(at.value, len)?))
    }

    /// The target of a 5-byte branch with this opcode.
    fn branch_target(&mut self, at: Address, opcode: u8) -> Result<(usize, Address)> {
        let image = self.image(at)?;
        let code = self.images[image].movable(at.value, 5)?;
        self.images[image].take(at.value, 5)?;
        let target = code.field(1).map(|f| f.target);
        let target = target.filter(|_| code.bytes[0] == opcode);
        Ok((image, target.with_context(|| format!("{:02x?} at {:#x} is no such branch", code.bytes, at.value))?))
    }

    fn trampolines(&mut self, linked: &Linked<'_>) -> Result<()> {
        let Some(section) = linked.ko.section(".static_call.text") else { return Ok(()) };
        let mut seen = HashSet::new();
        for (i, symbol) in linked.ko.symbols.iter().enumerate() {
            let own = symbol.home == super::ko::Home::Section(section);
            if !own || !linked.ko.name_of(symbol).starts_with("__SCT__") || !seen.insert(symbol.value) {
                continue;
            }
            let at = linked.symbol(i)?;
            let (image, target) = self.branch_target(at, 0xe9)?;
            let tail = self.images[image].bytes.get(at.value as usize + 5..at.value as usize + 8);
            ensure!(tail == Some(&[0x0f, 0xb9, 0xcc]), "{} is no trampoline", linked.ko.name_of(symbol));
            self.returns.remove(&at);
            self.add(image, at.value, 8, What::Call(SiteKind::Trampoline, target));
        }
        Ok(())
    }

    fn alternatives(&mut self, tables: &Tables) -> Result<()> {
        let paravirt: HashMap<Address, u8> = tables.paravirt.iter().map(|p| (p.site, p.operation)).collect();
        ensure!(tables.paravirt.iter().all(|p| p.len == 6), "a paravirt site has another length than 6");
        let mut replacements = Vec::new();
        let mut done = HashSet::new();
        for group in tables.alternatives.chunk_by(|a, b| a.site == b.site) {
            let site = group[0].site;
            let len = group.iter().map(|a| a.raw.len).max().unwrap_or(0);
            replacements.extend(group.iter().map(|a| (a.replacement, a.raw.replacement_len)));
            let entries = group.iter().map(|a| self.entry(site, a)).collect::<Result<Vec<_>>>()?;
            let (image, _) = self.take(site, len)?;
            // A branch out of the site stays where it is, so its distance may stay a number.
            let link = self.images[image].code(site.value, len)?;
            let mut before = vec![Variant::new(cond::BASE, link.clone())];
            if let Some(operation) = paravirt.get(&site) {
                done.insert(site);
                before[0].code = link.clone().overlaid(0, &self.kernel.pv.paravirt(*operation)?);
            }
            for at in (0..len as u64).map(|i| site.plus(i as i64)) {
                if self.returns.remove(&at) {
                    ensure!(before.len() == 1, "two returns in the alternative at {:#x}", site.value);
                    self.is_return(&self.images[image].code(at.value, 5)?)?;
                    let pos = (at.value - site.value) as usize;
                    let forms = return_variants(at, &self.kernel.thunks);
                    before = forms.iter().map(|v| Variant::new(v.cond, link.clone().overlaid(pos, &v.code))).collect();
                }
            }
            let mut variants = alternatives::variants(self.kernel.flavor.patching, site, &link, &before, &entries)?;
            // Forms that pass while the site is patched pass before it can run.
            let mut first = true;
            variants.retain(|v| std::mem::take(&mut first) || v.cond != cond::BOOT_ONLY);
            self.add(image, site.value, len, What::Choice(variants));
        }
        for p in tables.paravirt.iter().filter(|p| !done.contains(&p.site)) {
            let (image, link) = self.take(p.site, p.len)?;
            let mut call = self.kernel.pv.paravirt(p.operation)?;
            call.bytes = alternatives::optimized(self.kernel.flavor.patching, call.clone()).bytes;
            let forms = vec![Variant::new(cond::BOOT_ONLY, link), Variant::new(cond::BASE, call)];
            self.add(image, p.site.value, p.len, What::Choice(forms));
        }
        // A replacement is copied after returns and retpolines in it were rewritten.
        for at in tables.returns.iter().chain(&tables.retpolines).chain(&tables.sealed) {
            let inside =
                |(r, len): &(Address, usize)| r.var == at.var && (r.value..r.value + *len as u64).contains(&at.value);
            ensure!(!replacements.iter().any(inside), "a branch in a replacement is patched ({:#x})", at.value);
        }
        Ok(())
    }

    /// An alternative's replacement.
    fn entry(&self, site: Address, entry: &Alternative) -> Result<Entry> {
        let raw = entry.raw;
        let replacement = if raw.direct_call {
            let link = self.images[self.image(site)?].movable(site.value, 6)?;
            let pointer = link.field(2).filter(|_| link.bytes.starts_with(&[0xff, 0x15])).map(|f| f.target);
            let pointer = pointer.filter(|p| p.var == KERNEL);
            let pointer = pointer.context("a direct call is no call through a pointer of the kernel")?;
            self.kernel.pv.direct_call(pointer.value)?
        } else if raw.replacement_len == 0 {
            Replacement::Move(Code::default())
        } else {
            let image = &self.images[self.image(entry.replacement)?];
            Replacement::Move(image.movable(entry.replacement.value, raw.replacement_len)?)
        };
        Ok(Entry { cpuid: raw.cpuid, not: raw.not, replacement })
    }

    fn is_return(&self, code: &Code) -> Result<()> {
        let link = Address::kernel(self.kernel.thunks.link);
        ensure!(*code == Code::branch(0xe9, link), "{:02x?} is no jump to the return thunk", code.bytes);
        Ok(())
    }

    fn branches(&mut self, tables: &Tables) -> Result<()> {
        for at in &tables.returns {
            // Those in trampolines and alternatives are part of them.
            if !self.returns.remove(at) {
                continue;
            }
            let (image, code) = self.take(*at, 5)?;
            self.is_return(&code)?;
            self.add(image, at.value, 5, What::Return);
        }
        for at in &tables.retpolines {
            let image = self.image(*at)?;
            let prefixed = self.images[image].bytes[at.value as usize] == 0x2e;
            let (image, code) = self.take(*at, 5 + usize::from(prefixed))?;
            let array = self.kernel.indirect_array;
            let target = code.fields.first().context("a retpoline has no target")?.target;
            ensure!(target.var == KERNEL, "a retpoline leads out of the kernel");
            let retpoline = Retpoline::read(&code.bytes, target.value, array)?;
            self.add(image, at.value, code.len(), What::Retpoline(retpoline));
        }
        Ok(())
    }

    fn traced(&mut self, tables: &Tables) -> Result<()> {
        let call = Code::branch(0xe8, Address::kernel(self.kernel.symbols.need("__fentry__")?));
        for at in &tables.mcount {
            let (image, code) = self.take(*at, 5)?;
            ensure!(code == call, "{:02x?} at {:#x} is no call of __fentry__", code.bytes, at.value);
            self.images[image].bytes[at.value as usize..][..5].copy_from_slice(&NOP5);
            self.add(image, at.value, 5, What::Ftrace);
        }
        Ok(())
    }

    fn jumps(&mut self, tables: &Tables) -> Result<()> {
        for jump in &tables.jumps {
            let (at, image) = (jump.site, self.image(jump.site)?);
            let bytes = &self.images[image].bytes[at.value as usize..];
            let len = match bytes {
                [0xeb, ..] | [0x66, 0x90, ..] => 2,
                [0xe9, ..] | [0x0f, 0x1f, 0x44, 0, 0, ..] => 5,
                _ => bail!("{:02x?} at {:#x} is neither a jump nor a NOP", &bytes[..bytes.len().min(5)], at.value),
            };
            let distance = jump.target.distance_from(at.plus(len)).context("one leaves its block")?;
            let distance = i32::try_from(distance)?;
            let (image, code) = self.take(at, len as usize)?;
            let (kind, linked) = match code.bytes[..] {
                [0xeb, d] => (SiteKind::Jump2, Some(d as i8 as i32)),
                [0xe9, a, b, c, d] => (SiteKind::Jump5, Some(i32::from_le_bytes([a, b, c, d]))),
                _ if len == 2 => (SiteKind::Jump2, None),
                _ => (SiteKind::Jump5, None),
            };
            let fits = len == 5 || i8::try_from(distance).is_ok();
            let agrees = linked.is_none_or(|d| d == distance) && code.fields.is_empty();
            ensure!(fits && agrees, "the one at {:#x} jumps elsewhere", at.value);
            self.add(image, at.value, len as usize, What::Jump(kind, distance));
        }
        Ok(())
    }

    fn static_calls(&mut self, tables: &Tables) -> Result<()> {
        for at in &tables.static_calls {
            let image = self.image(*at)?;
            let (opcode, kind) = match self.images[image].bytes[at.value as usize] {
                opcode @ 0xe8 => (opcode, SiteKind::StaticCall),
                opcode @ 0xe9 => (opcode, SiteKind::StaticJump),
                other => bail!("{other:02x} at {:#x} is neither a call nor a jump", at.value),
            };
            let (image, target) = self.branch_target(*at, opcode)?;
            self.add(image, at.value, 5, What::Call(kind, target));
        }
        Ok(())
    }

    fn locks(&mut self, linked: &Linked<'_>, tables: &Tables) -> Result<()> {
        // 6.1 rewrites those of the section `.text`, later kernels those of the whole block.
        let text = linked.ko.section(".text");
        let part = match (self.kernel.flavor.patching, text.and_then(|i| Some((i, linked.layout.sections[i]?)))) {
            (Patching::V6_1, Some((i, place))) => place.offset..place.offset + linked.ko.sections[i].size,
            (Patching::V6_1, None) => 0..0,
            (Patching::V6_8 | Patching::V6_12, _) => 0..u64::MAX,
        };
        for at in &tables.locks {
            let image = self.image(*at)?;
            if self.images[image].block != Block::Text || !part.contains(&at.value) {
                continue;
            }
            let byte = self.images[image].bytes[at.value as usize];
            if is_lock(byte).with_context(|| format!("at {:#x}", at.value))? {
                self.add(image, at.value, 1, What::Lock);
            }
        }
        Ok(())
    }

    /// Removes ENDBR from functions that are never called through a pointer. Linux does so for all of them.
    fn sealed(&mut self, tables: &Tables) -> Result<()> {
        for at in &tables.sealed {
            let image = self.image(*at)?;
            let bytes = &mut self.images[image].bytes[at.value as usize..];
            ensure!(bytes.starts_with(&[0xf3, 0x0f, 0x1e, 0xfa]), "no ENDBR64 at {:#x}", at.value);
            bytes[..4].copy_from_slice(&self.kernel.flavor.seal);
        }
        Ok(())
    }

    /// Fields no patch site describes.
    fn rest(&mut self) {
        for (image, sites) in self.images.iter().zip(&mut self.sites) {
            let free = image.slots.iter().filter(|s| !s.taken);
            sites.extend(free.map(|s| Site {
                offset: s.offset,
                len: s.width.bytes() as usize,
                what: What::Field(s.width, s.target),
            }));
        }
    }
}
