//! What a module's symbols and relocations mean, once all modules are known
use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};

use super::ko::{Home, Ko, Relocation};
use super::layout::{Block, Layout};
use crate::code::Address;

/// The number that stands for a block of a module until its variable is known: the place of [`Address::var`].
pub fn var(module: u32, block: Block) -> u32 {
    module * Block::ALL.len() as u32 + block as u32
}

/// The module and the block a number of [`var`] stands for.
pub fn block_of(var: u32) -> (u32, Block) {
    let count = Block::ALL.len() as u32;
    (var / count, Block::ALL[(var % count) as usize])
}

/// Pointers of a table, by the offset of the field that holds them.
pub type Pointers = Vec<(u64, Address)>;

/// A module with its symbols resolved.
pub struct Linked<'a> {
    /// The file.
    pub ko: &'a Ko,
    /// Its layout.
    pub layout: &'a Layout,
    /// The module's number in the set.
    pub number: u32,
    symbols: Vec<Option<Address>>,
}

impl<'a> Linked<'a> {
    /// Resolves every symbol, as the module loader does.
    pub fn new(ko: &'a Ko, layout: &'a Layout, number: u32, export: impl Fn(&str) -> Option<Address>) -> Result<Self> {
        let mut symbols = Vec::with_capacity(ko.symbols.len());
        for (i, symbol) in ko.symbols.iter().enumerate() {
            let name = ko.name_of(symbol);
            symbols.push(match symbol.home {
                _ if i == 0 => Some(Address::absolute(0)),
                Home::Absolute => Some(Address::absolute(symbol.value)),
                Home::Section(s) => layout.sections[s].map(|place| Address {
                    var: var(number, place.block),
                    value: place.offset.wrapping_add(symbol.value),
                }),
                Home::Undefined { weak } => match export(name) {
                    None if weak || name == "_GLOBAL_OFFSET_TABLE_" => Some(Address::absolute(0)),
                    None => bail!("it needs {name}, which neither the kernel nor an approved module exports"),
                    found => found,
                },
                Home::Odd => bail!("its symbol {name} is in no section"),
            });
        }
        Ok(Self { ko, layout, number, symbols })
    }

    /// Where a relocation points: its symbol plus its addend.
    pub fn target(&self, relocation: &Relocation) -> Result<Address> {
        Ok(self.symbol(relocation.symbol)?.plus(relocation.addend))
    }

    /// Where a symbol is.
    pub fn symbol(&self, index: usize) -> Result<Address> {
        let known = self.symbols.get(index).context("a relocation names no symbol")?;
        known.with_context(|| format!("it refers to {}, which is not loaded", self.ko.name_of(&self.ko.symbols[index])))
    }

    /// The pointers of a section, whatever their width, by offset.
    pub fn pointers(&self, section: usize) -> Result<Pointers> {
        let mut pointers = Vec::new();
        for r in self.ko.relocations(section)? {
            pointers.push((r.offset, self.target(&r)?));
        }
        pointers.sort_by_key(|p| p.0);
        let once = pointers.windows(2).all(|w| w[0].0 < w[1].0);
        ensure!(once, "two relocations change the same field of {}", self.ko.sections[section].name);
        Ok(pointers)
    }
}

/// A module's exports: name and symbol index plus addend, from its export tables.
pub fn exports(ko: &Ko) -> Result<Vec<(&str, usize, i64)>> {
    /// Length of an entry: value, name, namespace, each relative to itself.
    const ENTRY: u64 = 12;
    let mut found = Vec::new();
    for table in ["__ksymtab", "__ksymtab_gpl"] {
        let Some(table) = ko.section(table) else { continue };
        ensure!(ko.sections[table].size.is_multiple_of(ENTRY), "its export table has a length of its own");
        let mut values = HashMap::new();
        let mut names = Vec::new();
        for r in ko.relocations(table)? {
            if r.offset % ENTRY == 0 {
                values.insert(r.offset / ENTRY, (r.symbol, r.addend));
            } else if r.offset % ENTRY == 4 {
                names.push((r.offset / ENTRY, r));
            }
        }
        for (entry, r) in names {
            let symbol = ko.symbols.get(r.symbol).context("an export has no name")?;
            let Home::Section(section) = symbol.home else { bail!("an export has no name") };
            let at = usize::try_from(symbol.value.wrapping_add_signed(r.addend))?;
            let name = ko.bytes(section)?.get(at..).context("an export has no name")?;
            let len = name.iter().position(|b| *b == 0).context("an export's name does not end")?;
            let (symbol, addend) = values.get(&entry).context("an export has no value")?;
            found.push((std::str::from_utf8(&name[..len])?, *symbol, *addend));
        }
    }
    Ok(found)
}
