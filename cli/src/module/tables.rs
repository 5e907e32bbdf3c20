//! The tables in which a module lists the places Linux patches
//!
//! In a `.ko` the pointers of a table exist only as relocations. Each entry's address is a block's variable and
//! an offset, see [`super::link::var`].
use anyhow::{Context, Result, ensure};

use super::link::Linked;
use crate::alternatives::{RawEntry, read_entry};
use crate::code::Address;
use crate::flavor::Patching;

/// An entry of `.altinstructions`.
#[derive(Clone, Copy, Debug)]
pub struct Alternative {
    /// The site.
    pub site: Address,
    /// The replacement; meaningless if it is empty.
    pub replacement: Address,
    /// Condition and lengths.
    pub raw: RawEntry,
}

/// An entry of `.parainstructions`.
#[derive(Clone, Copy, Debug)]
pub struct Paravirt {
    /// The site.
    pub site: Address,
    /// Index of the operation in `pv_ops`.
    pub operation: u8,
    /// Length of the site.
    pub len: usize,
}

/// An entry of `__jump_table`.
#[derive(Clone, Copy, Debug)]
pub struct Jump {
    /// The site.
    pub site: Address,
    /// Where it may jump.
    pub target: Address,
}

/// All tables of a module.
#[derive(Debug, Default)]
pub struct Tables {
    /// `.altinstructions`, in order.
    pub alternatives: Vec<Alternative>,
    /// `.parainstructions`.
    pub paravirt: Vec<Paravirt>,
    /// `.retpoline_sites`.
    pub retpolines: Vec<Address>,
    /// `.return_sites`.
    pub returns: Vec<Address>,
    /// `.ibt_endbr_seal`.
    pub sealed: Vec<Address>,
    /// `.smp_locks`.
    pub locks: Vec<Address>,
    /// `__mcount_loc`.
    pub mcount: Vec<Address>,
    /// `__jump_table`.
    pub jumps: Vec<Jump>,
    /// `.static_call_sites`.
    pub static_calls: Vec<Address>,
}

impl Tables {
    /// Reads all tables.
    pub fn read(linked: &Linked<'_>, patching: Patching) -> Result<Self> {
        let list = |name: &str, width: u64| -> Result<Vec<Address>> {
            let Some(table) = Table::open(linked, name, width)? else { return Ok(Vec::new()) };
            // An entry without a relocation is empty: `.smp_locks` is padded with them.
            Ok(table.pointers.iter().map(|p| p.1).collect())
        };
        Ok(Self {
            alternatives: alternatives(linked, patching)?,
            paravirt: paravirt(linked)?,
            retpolines: list(".retpoline_sites", 4)?,
            returns: list(".return_sites", 4)?,
            sealed: list(".ibt_endbr_seal", 4)?,
            locks: list(".smp_locks", 4)?,
            mcount: list("__mcount_loc", 8)?,
            jumps: jumps(linked)?,
            static_calls: static_calls(linked)?,
        })
    }
}

/// A table of entries of one length.
struct Table<'a> {
    bytes: &'a [u8],
    entry: usize,
    pointers: Vec<(u64, Address)>,
}

impl<'a> Table<'a> {
    fn open(linked: &Linked<'a>, name: &str, entry: u64) -> Result<Option<Self>> {
        let Some(section) = linked.ko.section(name) else { return Ok(None) };
        let bytes = linked.ko.bytes(section)?;
        ensure!((bytes.len() as u64).is_multiple_of(entry), "{name} has an entry of another length");
        Ok(Some(Self { bytes, entry: entry as usize, pointers: linked.pointers(section)? }))
    }

    fn len(&self) -> usize {
        self.bytes.len() / self.entry
    }

    /// The pointer at a position of an entry.
    fn pointer(&self, entry: usize, at: usize) -> Result<Address> {
        let offset = (entry * self.entry + at) as u64;
        let found = self.pointers.binary_search_by_key(&offset, |p| p.0);
        found.map(|i| self.pointers[i].1).ok().context("an entry of a patch table has no address")
    }

    fn entry(&self, entry: usize) -> &[u8] {
        &self.bytes[entry * self.entry..][..self.entry]
    }
}

fn alternatives(linked: &Linked<'_>, patching: Patching) -> Result<Vec<Alternative>> {
    let Some(table) = Table::open(linked, ".altinstructions", patching.alt_entry_len() as u64)? else {
        return Ok(Vec::new());
    };
    let read = |i: usize| {
        let raw = read_entry(patching, table.entry(i))?;
        let replacement = if raw.replacement_len > 0 { table.pointer(i, 4)? } else { Address::absolute(0) };
        Ok(Alternative { site: table.pointer(i, 0)?, replacement, raw })
    };
    (0..table.len()).map(read).collect()
}

fn paravirt(linked: &Linked<'_>) -> Result<Vec<Paravirt>> {
    let Some(table) = Table::open(linked, ".parainstructions", 16)? else { return Ok(Vec::new()) };
    let read = |i: usize| {
        let raw = table.entry(i);
        Ok(Paravirt { site: table.pointer(i, 0)?, operation: raw[8], len: raw[9] as usize })
    };
    (0..table.len()).map(read).collect()
}

fn jumps(linked: &Linked<'_>) -> Result<Vec<Jump>> {
    let Some(table) = Table::open(linked, "__jump_table", 16)? else { return Ok(Vec::new()) };
    (0..table.len()).map(|i| Ok(Jump { site: table.pointer(i, 0)?, target: table.pointer(i, 4)? })).collect()
}

fn static_calls(linked: &Linked<'_>) -> Result<Vec<Address>> {
    let Some(table) = Table::open(linked, ".static_call_sites", 8)? else { return Ok(Vec::new()) };
    (0..table.len()).map(|i| table.pointer(i, 0)).collect()
}
