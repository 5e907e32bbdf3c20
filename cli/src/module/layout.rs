//! Where the module loader puts a module's sections
//!
//! The loader collects sections into a few blocks of memory, in passes: code, read-only data, data that is
//! read-only after init, other data; first for all but the `.init` sections, then for those. Until Linux 6.3
//! the passes share one block (and one for init), their starts page-aligned; since 6.4 each pass has its own.
use anyhow::{Context, Result, ensure};
use object::elf;

use super::ko::Ko;
use crate::flavor::Patching;
use crate::kernel::Kernel;
use secvisor_approval::PAGE;

/// A block of memory that is allocated as a whole. The order is that of a module's variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Block {
    /// Text; until Linux 6.3 everything that stays.
    Text,
    /// Init text; until Linux 6.3 everything that is freed after init.
    InitText,
    /// Writable data.
    Data,
    /// Read-only data.
    RoData,
    /// Data that is read-only after init.
    RoAfterInit,
    /// Writable data for init.
    InitData,
    /// Read-only data for init.
    InitRoData,
    /// The module's part of the per-CPU area.
    PerCpu,
}

impl Block {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::Text,
        Self::InitText,
        Self::Data,
        Self::RoData,
        Self::RoAfterInit,
        Self::InitData,
        Self::InitRoData,
        Self::PerCpu,
    ];
}

/// How a kernel allocates modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// One block for what stays, one for init (until Linux 6.3).
    Two,
    /// A block per kind of section (since Linux 6.4).
    Seven,
}

/// How a kernel lays out modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loader {
    /// How it allocates them.
    pub scheme: Scheme,
    /// Names of the sections it makes read-only once init is over.
    pub ro_after_init: Vec<String>,
}

impl Loader {
    /// One whose sections for [`Block::RoAfterInit`] are those that all kernels have.
    pub fn new(scheme: Scheme) -> Self {
        Self { scheme, ro_after_init: [".data..ro_after_init", "__jump_table"].map(str::to_owned).to_vec() }
    }

    /// That of a kernel. Since 6.10 it has the sections' names in an array, as many as it knows.
    pub fn of(kernel: &Kernel<'_>) -> Result<Self> {
        let scheme = match kernel.flavor.patching {
            Patching::V6_1 => Scheme::Two,
            Patching::V6_8 | Patching::V6_12 => Scheme::Seven,
        };
        let mut loader = Self::new(scheme);
        if kernel.symbols.get("module_mark_ro_after_init").is_some() {
            let array = kernel.symbols.need("ro_after_init")?;
            let count = kernel.symbols.size(array) as u64 / 8;
            let pointers = (0..count).map(|i| kernel.image.u64(array + 8 * i)).collect::<Result<Vec<_>>>()?;
            // Filler may follow.
            let strings = pointers.into_iter().take_while(|p| *p != 0).map(|p| kernel.image.string(p));
            let names = strings.collect::<Result<Vec<_>>>();
            let names = names.context("the names of sections that become read-only (ro_after_init)")?;
            let known = loader.ro_after_init.iter().all(|name| names.contains(name));
            ensure!(known, "ro_after_init names {names:?}: how the kernel lays out modules is unknown");
            loader.ro_after_init = names;
        }
        Ok(loader)
    }
}

/// A place: a block, and an offset from where it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The block.
    pub block: Block,
    /// Offset in the block.
    pub offset: u64,
}

/// Where everything of a module is.
pub struct Layout {
    /// Place of each section, by index; `None` if it is not loaded.
    pub sections: Vec<Option<Place>>,
    /// Length of the code at the start of [`Block::Text`].
    pub text: u64,
    /// Length of the code at the start of [`Block::InitText`].
    pub init_text: u64,
}

/// What a pass over the sections takes.
struct Pass {
    required: u64,
    excluded: u64,
    core: Block,
    init: Block,
}

const ALLOC: u64 = elf::SHF_ALLOC as u64;
const WRITE: u64 = elf::SHF_WRITE as u64;
const EXEC: u64 = elf::SHF_EXECINSTR as u64;
/// A flag the loader invents (`SHF_RO_AFTER_INIT`).
const RO_AFTER_INIT: u64 = 0x0020_0000;

const PASSES: [Pass; 4] = [
    Pass { required: ALLOC | EXEC, excluded: 0, core: Block::Text, init: Block::InitText },
    Pass { required: ALLOC, excluded: WRITE, core: Block::RoData, init: Block::InitRoData },
    Pass { required: ALLOC | RO_AFTER_INIT, excluded: 0, core: Block::RoAfterInit, init: Block::InitData },
    Pass { required: ALLOC | WRITE, excluded: 0, core: Block::Data, init: Block::InitData },
];

impl Layout {
    /// The layout of a module.
    pub fn new(ko: &Ko, loader: &Loader) -> Result<Self> {
        let scheme = loader.scheme;
        let mut flags: Vec<u64> = ko.sections.iter().map(|s| s.flags & (ALLOC | WRITE | EXEC)).collect();
        // These are read where the file was copied to, and not loaded.
        for name in [".modinfo", "__versions", "__version_ext_crcs", "__version_ext_names", ".data..percpu"] {
            ko.section(name).inspect(|i| flags[*i] &= !ALLOC);
        }
        // Where there is code tagging, its section is kept elsewhere.
        ensure!(ko.section("alloc_tags").is_none(), "it has a section alloc_tags, whose place is unknown");
        for name in &loader.ro_after_init {
            ko.section(name).inspect(|i| flags[*i] |= RO_AFTER_INIT);
        }
        let mut layout = Self { sections: vec![None; flags.len()], text: 0, init_text: 0 };
        for init in [false, true] {
            let mut ends = [0u64; Block::ALL.len()];
            for (number, pass) in PASSES.iter().enumerate() {
                let own = if init { pass.init } else { pass.core };
                let block = match scheme {
                    Scheme::Seven => own,
                    Scheme::Two if init => Block::InitText,
                    Scheme::Two => Block::Text,
                };
                let end = &mut ends[block as usize];
                for (i, section) in ko.sections.iter().enumerate() {
                    let taken = flags[i] & pass.required == pass.required && flags[i] & pass.excluded == 0;
                    if !taken || layout.sections[i].is_some() || section.name.starts_with(".init") != init {
                        continue;
                    }
                    let odd = init && flags[i] & RO_AFTER_INIT != 0;
                    ensure!(
                        !odd && flags[i] & (WRITE | EXEC) != WRITE | EXEC,
                        "section {} has odd flags",
                        section.name
                    );
                    let offset = end.next_multiple_of(section.align);
                    *end = offset + section.size;
                    ensure!(*end < 1 << 30, "it is too long");
                    layout.sections[i] = Some(Place { block, offset });
                }
                if number == 0 {
                    *(if init { &mut layout.init_text } else { &mut layout.text }) = *end;
                }
                if scheme == Scheme::Two {
                    *end = end.next_multiple_of(PAGE as u64);
                }
            }
        }
        if let Some(i) = ko.section(".data..percpu") {
            layout.sections[i] = Some(Place { block: Block::PerCpu, offset: 0 });
        }
        Ok(layout)
    }
}
