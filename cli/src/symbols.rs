//! The kernel's symbols: every name, and what modules may link against
use std::collections::HashMap;

use anyhow::{Result, anyhow};

use crate::code::Address;

/// A symbol as kallsyms has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Address; per-CPU symbols are offsets.
    pub address: u64,
    /// Type letter as `nm` prints it.
    pub kind: u8,
    /// Name.
    pub name: String,
}

impl Symbol {
    /// Whether it names code.
    pub fn is_text(&self) -> bool {
        matches!(self.kind, b't' | b'T' | b'W' | b'w')
    }
}

/// All symbols of a kernel.
#[derive(Clone, Debug, Default)]
pub struct KernelSymbols {
    all: Vec<Symbol>,
    by_name: HashMap<String, u64>,
    exports: HashMap<String, Address>,
}

impl KernelSymbols {
    /// Indexes kallsyms. A global symbol goes before local ones of the same name.
    pub fn new(all: Vec<Symbol>) -> Self {
        let mut by_name = HashMap::with_capacity(all.len());
        for s in all.iter().filter(|s| !s.kind.is_ascii_uppercase()) {
            by_name.entry(s.name.clone()).or_insert(s.address);
        }
        for s in all.iter().filter(|s| s.kind.is_ascii_uppercase()) {
            by_name.insert(s.name.clone(), s.address);
        }
        Self { all, by_name, exports: HashMap::new() }
    }

    /// Adds what `__ksymtab` and `__ksymtab_gpl` list.
    pub fn set_exports(&mut self, exports: HashMap<String, Address>) {
        self.exports = exports;
    }

    /// Address of a symbol.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.by_name.get(name).copied()
    }

    /// Address of a symbol that must be there.
    pub fn need(&self, name: &str) -> Result<u64> {
        self.get(name).ok_or_else(|| anyhow!("the kernel has no symbol {name}"))
    }

    /// How far it is from a symbol's address to the next symbol's.
    pub fn size(&self, address: u64) -> usize {
        self.all.iter().map(|s| s.address).filter(|a| *a > address).min().map_or(0, |next| (next - address) as usize)
    }

    /// Value of an exported symbol: what a module's undefined symbol resolves to. That of a per-CPU symbol is its
    /// offset from the per-CPU base, as Linux uses it.
    pub fn export(&self, name: &str) -> Option<Address> {
        self.exports.get(name).copied()
    }

    /// Number of exported symbols.
    pub fn exports(&self) -> usize {
        self.exports.len()
    }

    /// Every symbol, in kallsyms order (by address).
    pub fn iter(&self) -> impl Iterator<Item = &Symbol> {
        self.all.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globals_win_over_locals() {
        let s = |address, kind, name: &str| Symbol { address, kind, name: name.into() };
        let symbols = KernelSymbols::new(vec![s(1, b'T', "a"), s(2, b't', "a"), s(3, b't', "b"), s(4, b't', "b")]);
        assert_eq!((symbols.get("a"), symbols.get("b")), (Some(1), Some(3)));
        assert!(symbols.need("c").unwrap_err().to_string().contains("symbol c"));
    }
}
