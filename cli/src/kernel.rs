//! A kernel image: what it is made of, and how it becomes regions, runs and facts of an approval
use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, bail};
use secvisor_approval::PAGE;
use secvisor_approval::build::{RegionDef, SymbolDef};
use secvisor_approval::wire::{Info, NONE, RegionKind, Reloc, RelocKind};

use crate::alternatives::Replacement;
use crate::branches::ReturnThunks;
use crate::bytes::i32_at;
use crate::bzimage::{self, Setup};
use crate::code::{Address, Code};
use crate::elf::{Image, Segment};
use crate::emit::Emitter;
use crate::flavor::{Flavor, Patching};
use crate::relocs::{self, Relocs};
use crate::sites::Counts;
use crate::symbols::KernelSymbols;
use crate::trampoline::Trampoline;
use crate::{call_forms, gather, kallsyms, lsm, nops, tracer};

/// What an approval adds to the kernel's command line, each with its reason; besides [`HID_BPF`] and `lsm=`
/// ([`lsm::without_bpf`]).
pub const CMDLINE: &[(&str, &str)] = &[
    ("sysctl.net.core.bpf_jit_enable=0", "BPF programs are interpreted: compiled ones are code nobody has approved"),
    ("nohibernate", "resuming from disk replaces the kernel with what the disk holds"),
    ("efi=noruntime", "EFI runtime services are firmware code that nobody has approved"),
    ("init_on_alloc=1", "a frame that held approved code is cleared before a device gets it"),
];

/// A function of kernels that run a BPF program of their own, compiled, before user mode (6.3 to 6.10,
/// `drivers/hid/bpf/hid_bpf_jmp_table.c`), and the word that makes them go without.
const HID_BPF: (&str, &str) = ("hid_bpf_preload_skel", "initcall_blacklist=hid_bpf_init");

/// The interpreter of BPF, which a kernel with CONFIG_BPF_JIT_ALWAYS_ON is built without (`kernel/bpf/core.c`).
const BPF_INTERPRETER: &str = "___bpf_prog_run";

/// Start of the kernel's mapping (`__START_KERNEL_map`).
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Size of that mapping when the kernel can be randomised (`KERNEL_IMAGE_SIZE`).
const KERNEL_IMAGE_SIZE: u64 = 1 << 30;
/// End of the modules' range (`MODULES_END`).
const MODULES_END: u64 = 0xffff_ffff_ff00_0000;

/// Initial values of `pv_ops`, and of the table some of its operations have moved to: what direct calls are patched to.
#[derive(Clone, Debug)]
pub struct PvOps {
    tables: Vec<PvTable>,
    nop: u64,
    bug: u64,
    patching: Patching,
}

/// A table of operations.
#[derive(Clone, Debug)]
struct PvTable {
    start: u64,
    slots: Vec<u64>,
}

/// The tables. The first is always there.
const PV_TABLES: [&str; 2] = ["pv_ops", "pv_ops_lock"];

impl PvOps {
    fn read(image: &Image<'_>, symbols: &KernelSymbols, patching: Patching) -> Result<Self> {
        let (nop, bug) = match patching {
            Patching::V6_1 => ("_paravirt_nop", "paravirt_BUG"),
            Patching::V6_8 | Patching::V6_12 => ("nop_func", "BUG_func"),
        };
        symbols.need(PV_TABLES[0])?;
        let table = |start: u64| {
            // The table ends where the next symbol begins.
            let len = symbols.size(start).min(PAGE) / 8;
            let slots = (0..len as u64).map(|i| image.u64(start.wrapping_add(8 * i))).collect::<Result<_>>()?;
            Ok(PvTable { start, slots })
        };
        let tables = PV_TABLES.iter().filter_map(|name| symbols.get(name)).map(table).collect::<Result<_>>()?;
        Ok(Self { tables, nop: symbols.need(nop)?, bug: symbols.need(bug)?, patching })
    }

    /// What a call through a slot becomes.
    fn called(&self, value: u64) -> Replacement {
        match value {
            0 => Replacement::Call(Address::kernel(self.bug)),
            v if v == self.nop => Replacement::Nops,
            v => Replacement::Call(Address::kernel(v)),
        }
    }

    /// What `call *slot(%rip)` becomes (`ALT_FLAG_DIRECT_CALL`); `slot` is the slot's address.
    pub fn direct_call(&self, slot: u64) -> Result<Replacement> {
        let value = self.tables.iter().find_map(|table| {
            let offset = slot.wrapping_sub(table.start);
            table.slots.get((offset / 8) as usize).filter(|_| offset.is_multiple_of(8))
        });
        let value =
            value.with_context(|| format!("direct call through {slot:#x}, no slot of {}", PV_TABLES.join(", ")))?;
        Ok(self.called(*value))
    }

    /// The 6 bytes a paravirt site of this type holds once patched (6.1).
    pub fn paravirt(&self, index: u8) -> Result<Code> {
        let value = self.tables[0].slots.get(index as usize).context("call through a slot behind pv_ops")?;
        Ok(match self.called(*value) {
            Replacement::Call(target) => Code::branch(0xe8, target).padded(6, 0x90),
            _ => Code::plain(nops::nops(self.patching, 6)),
        })
    }

    /// Address of slot 0.
    pub fn start(&self) -> u64 {
        self.tables[0].start
    }
}

/// A kernel that was read and understood.
pub struct Kernel<'a> {
    /// From the setup header.
    pub setup: Setup,
    /// The linked kernel.
    pub image: Image<'a>,
    /// How it patches itself.
    pub flavor: Flavor,
    /// Its symbols and exports.
    pub symbols: KernelSymbols,
    /// Targets of paravirt calls.
    pub pv: PvOps,
    /// Return thunks.
    pub thunks: ReturnThunks,
    /// `__x86_indirect_thunk_array`.
    pub indirect_array: u64,
    /// What KASLR moves.
    pub relocs: Relocs,
    /// Runs of code pages.
    pub regions: Vec<CodeRegion>,
    /// What another CPU starts with.
    pub trampoline: Trampoline,
}

/// A run of pages that hold code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeRegion {
    /// Whether it is freed at the end of boot.
    pub init: bool,
    /// Link address.
    pub base: u64,
    /// Linked bytes, whole pages.
    pub bytes: Vec<u8>,
}

impl CodeRegion {
    /// Address behind the last byte.
    pub fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }
    /// Whether an address lies in it.
    pub fn contains(&self, address: u64) -> bool {
        (self.base..self.end()).contains(&address)
    }
}

impl<'a> Kernel<'a> {
    /// Reads the kernel that `bzimage` unpacks to.
    pub fn parse(setup: Setup, vmlinux: &'a [u8]) -> Result<Self> {
        let image = Image::parse(vmlinux)?;
        let rodata = image.need(".rodata")?;
        let mut symbols = KernelSymbols::new(kallsyms::decode(rodata.bytes, rodata.address)?);
        let flavor = Flavor::detect(&image, &symbols)?;
        let nops = image.bytes(symbols.need("x86nops")?, nops::table(flavor.patching).len())?;
        if nops != nops::table(flavor.patching) {
            bail!("the kernel's NOPs (x86nops) are unknown");
        }
        // Distances to per-CPU symbols are moved the other way as long as those are offsets from 0 (until 6.14).
        let relocs = relocs::read(image.tail, symbols.need("__per_cpu_start")? == 0)?;
        if relocs.abs32.is_empty() || relocs.abs64.is_empty() {
            bail!("the kernel has no relocation table: one built without KASLR is unknown");
        }
        for field in relocs.abs32.iter().chain(&relocs.inverse32).chain(&relocs.abs64) {
            // Fields are named by where the loaded image holds them; per-CPU data is linked elsewhere.
            let physical = field.wrapping_sub(KERNEL_MAP);
            let held = |s: &Segment<'_>| (s.physical..s.physical + s.bytes.len() as u64).contains(&physical);
            if !image.segments.iter().any(held) {
                bail!("relocation at {field:#x}, outside of the kernel");
            }
        }
        symbols.set_exports(exports(&image, &relocs)?);
        let pv = PvOps::read(&image, &symbols, flavor.patching)?;
        let thunks = ReturnThunks::find(&symbols)?;
        let indirect_array = symbols.need("__x86_indirect_thunk_array")?;
        let regions = code_regions(&image)?;
        let trampoline = Trampoline::find(&image, &symbols)?;
        Ok(Self { setup, image, flavor, symbols, pv, thunks, indirect_array, relocs, regions, trampoline })
    }

    /// Whether an address lies in what kexec copies to another place before it runs. Where it is in a section of code
    /// (until 6.14), its symbols are others.
    pub fn in_relocate_kernel(&self, address: u64) -> bool {
        let bounds = ["__relocate_kernel_start", "__relocate_kernel_end"].map(|name| self.symbols.get(name));
        matches!(bounds, [Some(start), Some(end)] if (start..end).contains(&address))
    }

    /// An emitter for this kernel's approval.
    pub fn emitter(&self) -> Emitter {
        Emitter::new(self.flavor, self.thunks.clone(), self.indirect_array)
    }

    /// What beneath SecVisor is lost with this kernel, though not with others.
    pub fn warnings(&self) -> Vec<&'static str> {
        // The compiler may have made a copy of it, with a name of its own.
        let no_interpreter = !self.symbols.iter().any(|s| s.name.split('.').next() == Some(BPF_INTERPRETER));
        no_interpreter
            .then_some(
                "this kernel cannot interpret BPF, and compiled BPF is refused: programs with a seccomp filter, \
                 most of systemd's services among them, would be killed",
            )
            .into_iter()
            .collect()
    }

    /// Adds runs, regions, the AP trampoline and the tracers, and gives the facts. Modules follow.
    pub fn emit(&self, emitter: &mut Emitter) -> Result<(Info, Counts)> {
        let info = self.info(emitter)?;
        self.runs(&info, emitter)?;
        for (fields, kind) in [
            (&self.relocs.abs32, RelocKind::Abs32),
            (&self.relocs.inverse32, RelocKind::Inverse32),
            (&self.relocs.abs64, RelocKind::Abs64),
        ] {
            for field in fields {
                // Fields are named by where the loaded image holds them.
                let offset = field.wrapping_sub(KERNEL_MAP).wrapping_sub(info.image_phys);
                let offset = u32::try_from(offset).ok().filter(|o| *o < Reloc::LIMIT);
                let offset = offset.with_context(|| format!("relocation at {field:#x}, outside of the kernel"))?;
                emitter.builder.reloc(offset, kind);
            }
        }
        let gathered = gather::gather(self)?;
        let mut counts = gathered.counts;
        let mut all = gathered.sites.iter().cloned().peekable();
        for region in &self.regions {
            let mut defs = Vec::new();
            while let Some(site) = all.next_if(|s| s.address < region.end()) {
                defs.push(site.emit(emitter, region.base)?);
            }
            emitter.builder.region(RegionDef {
                module: NONE,
                kind: if region.init { RegionKind::KernelInit } else { RegionKind::KernelText },
                base: region.base,
                bytes: region.bytes.clone(),
                sites: defs,
                symbols: self.symbols_of(region),
            })?;
        }
        if let Some(site) = all.next() {
            bail!("patch site at {:#x} behind all code", site.address);
        }
        self.trampoline.emit(&mut emitter.builder)?;
        tracer::emit(self, &gathered.sites, emitter)?;
        counts.regions = self.regions.len();
        counts.pages = self.regions.iter().map(|r| r.bytes.len() / PAGE).sum();
        Ok((info, counts))
    }

    fn info(&self, emitter: &mut Emitter) -> Result<Info> {
        let image_va = self.symbols.need("_text")?;
        let image_phys = self.setup.pref_address;
        let span = (self.setup.init_size as u64).next_multiple_of(PAGE as u64);
        let end = image_phys.checked_add(span).context("impossible preferred address")?;
        for s in &self.image.segments {
            if s.physical < image_phys || s.physical + s.size > end {
                bail!("segment at {:#x} outside of the memory the setup header asks for", s.physical);
            }
        }
        let entry_offset = self.image.entry.checked_sub(image_phys).context("entry point below the image")?;
        let mut words: Vec<_> = CMDLINE.iter().map(|(word, _)| word.to_string()).collect();
        words.extend(self.symbols.get(HID_BPF.0).map(|_| HID_BPF.1.to_string()));
        words.extend(lsm::without_bpf(&self.image, &self.symbols)?.map(|list| format!("lsm={list}")));
        let cmdline = words.join(" ");
        Ok(Info {
            image_va,
            image_phys,
            image_span: span,
            entry_offset,
            align: self.setup.align,
            modules_start: KERNEL_MAP + KERNEL_IMAGE_SIZE,
            modules_end: MODULES_END,
            fentry: self.symbols.need("__fentry__")?,
            ftrace_caller: self.symbols.need("ftrace_caller")?,
            ftrace_regs_caller: self.symbols.need("ftrace_regs_caller")?,
            percpu_start: self.symbols.need("__per_cpu_start")?,
            release: emitter.builder.name(&self.setup.release),
            cmdline: emitter.builder.name(&cmdline),
            boot_version: self.setup.version as u32,
            cmdline_size: self.setup.cmdline_size,
            call_forms: call_forms::emit(&self.image, &self.symbols, &mut emitter.builder)?,
        })
    }

    /// Everything of the image that is neither code nor zero wherever it lies, in physical order.
    fn runs(&self, info: &Info, emitter: &mut Emitter) -> Result<()> {
        let mut segments: Vec<_> = self.image.segments.iter().collect();
        segments.sort_by_key(|s| s.physical);
        let mut covered = 0;
        for s in segments {
            if s.physical < covered {
                bail!("segments overlap at {:#x}", s.physical);
            }
            covered = s
                .physical
                .checked_add(s.size)
                .with_context(|| format!("a segment at {:#x} is too large", s.physical))?;
            let mut start = None;
            let mut at = 0;
            // Pages of the segment, and one step behind the last.
            while at <= s.bytes.len() {
                let next = (at + 1).next_multiple_of(PAGE).min(s.bytes.len());
                let page = &s.bytes[at..next.max(at)];
                let address = s.address.wrapping_add(at as u64);
                let code = self.regions.iter().any(|r| r.contains(address));
                let offset = s.physical.wrapping_sub(info.image_phys).wrapping_add(at as u64);
                if code && offset != address.wrapping_sub(info.image_va) {
                    bail!("code at {address:#x} is not at the image's offset in memory");
                }
                let field = KERNEL_MAP.wrapping_add(s.physical).wrapping_add(at as u64);
                let moves = self.relocs.touches(field..field.wrapping_add(page.len() as u64));
                let wanted = !page.is_empty() && !code && (moves || page.iter().any(|b| *b != 0));
                match (wanted, start) {
                    (true, None) => start = Some(at),
                    (false, Some(from)) => {
                        emitter.builder.run(s.physical - info.image_phys + from as u64, &s.bytes[from..at]);
                        start = None;
                    }
                    _ => {}
                }
                if page.is_empty() {
                    break;
                }
                at = next;
            }
        }
        Ok(())
    }

    fn symbols_of(&self, region: &CodeRegion) -> Vec<SymbolDef> {
        // With padding for call depth tracking every function is 16-byte aligned; what is not is a label.
        let aligned = self.image.section(".call_sites").is_some();
        let mut seen = HashSet::new();
        self.symbols
            .iter()
            .filter(|s| s.is_text() && region.contains(s.address))
            // Padding before functions has names of its own.
            .filter(|s| !s.name.starts_with("__pfx_"))
            .filter(|s| seen.insert((s.address, s.name.as_str())))
            .map(|s| SymbolDef {
                offset: (s.address - region.base) as u32,
                name: s.name.clone(),
                // `.cold` parts are entered by jumps from their function only. A disabled static tail call goes to
                // the return thunk, one of which has an address of its own choice.
                function: self.thunks.has(s.address) || !(s.name.ends_with(".cold") || aligned && s.address % 16 != 0),
            })
            .collect()
    }
}

/// `__ksymtab` and `__ksymtab_gpl`; since 7.0 there is only one, and flags beside it.
fn exports(image: &Image<'_>, relocs: &Relocs) -> Result<HashMap<String, Address>> {
    let mut out = HashMap::new();
    for table in [Some(image.need("__ksymtab")?), image.section("__ksymtab_gpl")].into_iter().flatten() {
        if table.bytes.len() % 12 != 0 {
            bail!("section {} has an unknown entry size", table.name);
        }
        for (i, entry) in table.bytes.chunks_exact(12).enumerate() {
            let at = table.address + 12 * i as u64;
            let offset = |n: usize| i32_at(entry, n).unwrap_or_default() as i64;
            let value = at.wrapping_add_signed(offset(0));
            // What stays where it is while the table moves is a per-CPU symbol.
            let moves = !relocs.inverse32.contains(&at);
            let value = if moves { Address::kernel(value) } else { Address::absolute(value) };
            let name_at = (at + 4).wrapping_add_signed(offset(4));
            out.insert(image.string(name_at).context("exported symbol's name")?, value);
        }
    }
    Ok(out)
}

/// `.text` without pages of filler, and the init text, each with what lies directly behind it.
fn code_regions(image: &Image<'_>) -> Result<Vec<CodeRegion>> {
    let mut out: Vec<CodeRegion> = Vec::new();
    // The code of early boot is the first part of .text, one of its own behind it (6.15 to 6.17), or init text.
    let head = image.section(".head.text").map_or(".text", |head| head.name);
    let text = joined(image, ".text", head)?;
    for (i, page) in text.bytes.chunks(PAGE).enumerate() {
        if page.iter().all(|b| *b == 0xcc) {
            continue;
        }
        let address = text.base + (i * PAGE) as u64;
        match out.last_mut().filter(|r| r.end() == address) {
            Some(region) => region.bytes.extend_from_slice(page),
            None => out.push(CodeRegion { init: false, base: address, bytes: page.to_vec() }),
        }
    }
    out.push(CodeRegion { init: true, ..joined(image, ".init.text", ".altinstr_aux")? });
    // What shares the last page with code must be filler.
    for region in &mut out {
        let end = region.end();
        region.bytes.resize(region.bytes.len().next_multiple_of(PAGE), 0);
        if let Some(s) = image.sections.iter().find(|s| (end..region.end()).contains(&s.address) && !s.bytes.is_empty())
        {
            bail!("section {} shares a page with code", s.name);
        }
    }
    out.sort_by_key(|r| r.base);
    Ok(out)
}

/// The code of a section, and of another that follows it with less than a page between them.
fn joined(image: &Image<'_>, first: &str, last: &str) -> Result<CodeRegion> {
    let (start, end) = (image.need(first)?, image.need(last)?);
    if start.address % PAGE as u64 != 0 {
        bail!("{first} is not page-aligned");
    }
    if first == last {
        return Ok(CodeRegion { init: false, base: start.address, bytes: start.bytes.to_vec() });
    }
    if end.address < start.end() || end.address - start.end() >= PAGE as u64 {
        bail!("{last} does not follow {first}");
    }
    let mut bytes = start.bytes.to_vec();
    bytes.resize((end.address - start.address) as usize, 0);
    bytes.extend_from_slice(end.bytes);
    Ok(CodeRegion { init: false, base: start.address, bytes })
}

/// A kernel file, unpacked.
pub fn unpack(file: &[u8]) -> Result<(Setup, Vec<u8>)> {
    let setup = bzimage::setup(file)?;
    let image = bzimage::unpack(file, &setup)?;
    Ok((setup, image))
}
