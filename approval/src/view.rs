//! Reading a checked approval: borrowed tables, decoded record by record
//!
//! A [`View`] comes from [`crate::open::open`] alone, which has checked every index; nothing here fails.
use core::fmt;
use core::ops::Range;

use crate::PAGE;
use crate::wire::*;

pub use crate::open::{Error, Opened, counts, length, open};

/// A table of records, decoded as they are read.
#[derive(Clone, Copy)]
pub struct Table<'a, T> {
    bytes: &'a [u8],
    record: core::marker::PhantomData<T>,
}

impl<'a, T: Record> Table<'a, T> {
    pub(crate) fn new(bytes: &'a [u8]) -> Option<Self> {
        bytes.len().is_multiple_of(T::SIZE).then_some(Self { bytes, record: core::marker::PhantomData })
    }
    /// Number of records.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() / T::SIZE
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
    /// The record at `index`. Panics if there is none; [`open`] has checked every stored index.
    #[inline]
    pub fn at(&self, index: usize) -> T {
        T::read(&self.bytes[index * T::SIZE..][..T::SIZE])
    }
    /// The records of a range of indices.
    pub fn range(self, first: usize, count: usize) -> impl DoubleEndedIterator<Item = T> + 'a {
        let bytes = &self.bytes[first * T::SIZE..(first + count) * T::SIZE];
        bytes.chunks_exact(T::SIZE).map(T::read)
    }
    /// All records.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = T> + 'a {
        self.range(0, self.len())
    }
}

/// What is needed only to start the kernel.
#[derive(Clone, Copy)]
pub struct Launch<'a> {
    /// Parts of the kernel image that are not code.
    pub runs: Table<'a, Run>,
    /// Their bytes.
    pub data: &'a [u8],
    /// Fields that move with the image; none if it cannot be moved.
    pub relocs: Table<'a, Reloc>,
    /// File offset from where the hypervisor keeps the approval; a multiple of the page size.
    pub runtime_offset: u64,
}

/// A checked approval, without what of the pages changes.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Facts about the kernel.
    pub info: Info,
    /// Regions, those of the kernel first.
    pub regions: Table<'a, Region>,
    /// Modules, sorted by name.
    pub modules: Table<'a, Module>,
    /// Variables.
    pub vars: Table<'a, Var>,
    /// Expressions.
    pub exprs: Table<'a, Expr>,
    /// Sites, sorted by page and offset.
    pub sites: Table<'a, Site>,
    /// Templates.
    pub templates: Table<'a, Template>,
    /// Variants.
    pub variants: Table<'a, Variant>,
    /// Fixes.
    pub fixes: Table<'a, Fix>,
    /// Run-time constants.
    pub consts: Table<'a, Const>,
    /// Symbols, sorted within each region.
    pub symbols: Table<'a, Symbol>,
    pub(crate) page_table: Table<'a, Page>,
    pub(crate) bytes: &'a [u8],
    pub(crate) names: &'a [u8],
    pub(crate) packed: &'a [u8],
}

impl<'a> View<'a> {
    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.page_table.len() - 1
    }
    /// Indices of the sites that start in a page.
    #[inline]
    pub fn sites_of(&self, page: usize) -> Range<usize> {
        self.page_table.at(page).first_site as usize..self.page_table.at(page + 1).first_site as usize
    }
    /// What the sites of a page cover, in order: first the end of one that begins in the page before, which may be empty.
    pub fn covered(&self, page: usize) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let view = *self;
        let covers = move |index| {
            let site = view.sites.at(index);
            site.offset()..site.offset() + view.site_len(&site)
        };
        let before = page.checked_sub(1).and_then(|before| self.sites_of(before).last());
        let tail = 0..before.map_or(0, |index| covers(index).end.saturating_sub(PAGE));
        let own = self.sites_of(page).map(move |index| covers(index).start..covers(index).end.min(PAGE));
        core::iter::once(tail).chain(own)
    }
    /// The block of a page that is packed; empty if it is not.
    #[inline]
    pub(crate) fn packed(&self, page: usize) -> &'a [u8] {
        &self.packed[self.page_table.at(page).packed as usize..self.page_table.at(page + 1).packed as usize]
    }
    /// The bytes of a variant of length `len`, before fixes.
    #[inline]
    pub fn variant_bytes(&self, variant: &Variant, len: usize) -> &'a [u8] {
        &self.bytes[variant.bytes as usize..][..len]
    }
    /// What else a static call may become, by this kernel.
    pub fn call_forms(&self) -> Option<Template> {
        (self.info.call_forms != NONE).then(|| self.templates.at(self.info.call_forms as usize))
    }
    /// The string at an offset of the names; empty if there is none.
    pub fn name(&self, offset: u32) -> &'a str {
        let tail = self.names.get(offset as usize..).unwrap_or(&[]);
        let end = tail.iter().position(|b| *b == 0).unwrap_or(0);
        core::str::from_utf8(&tail[..end]).unwrap_or("")
    }
    /// What a symbol is called.
    pub fn symbol_name(&self, symbol: &Symbol) -> SymbolName<'a> {
        let end = if symbol.name & Symbol::COLD != 0 { Symbol::COLD_END } else { "" };
        SymbolName(self.name(symbol.name & !(Symbol::FUNCTION | Symbol::COLD)), end)
    }
    /// The symbol that covers an offset of a region.
    pub fn symbol_at(&self, region: &Region, offset: u32) -> Option<Symbol> {
        self.symbols_to(region, offset).last().map(|i| self.symbols.at(i))
    }
    /// Whether a function of the region starts at `offset`. Several symbols may share an offset.
    pub fn function_at(&self, region: &Region, offset: u32) -> bool {
        let to = self.symbols_to(region, offset).rev().map(|i| self.symbols.at(i));
        to.take_while(|s| s.offset == offset).any(|s| s.is_function())
    }
    /// Indices of a region's symbols that are not behind `offset`.
    fn symbols_to(&self, region: &Region, offset: u32) -> Range<usize> {
        let first = region.first_symbol as usize;
        first..partition_point(first..first + region.symbols as usize, |i| self.symbols.at(i).offset <= offset)
    }
    /// The region that holds a page.
    pub fn region_of_page(&self, page: u32) -> usize {
        partition_point(0..self.regions.len(), |i| self.regions.at(i).first_page <= page) - 1
    }
}

/// The first index for which `holds` does not, if it holds for all before that and for none behind.
fn partition_point(indices: Range<usize>, holds: impl Fn(usize) -> bool) -> usize {
    let Range { start: mut low, end: mut high } = indices;
    while low < high {
        let mid = low.midpoint(high);
        if holds(mid) { low = mid + 1 } else { high = mid }
    }
    low
}

/// The two parts of a symbol's name.
#[derive(Clone, Copy)]
pub struct SymbolName<'a>(&'a str, &'static str);

impl SymbolName<'_> {
    /// No symbol.
    pub const NONE: Self = Self("-", "");

    /// Whether this is the name.
    pub fn is(&self, name: &str) -> bool {
        name.strip_suffix(self.1) == Some(self.0)
    }
}

impl fmt::Display for SymbolName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0, self.1)
    }
}

impl View<'_> {
    /// Length of a site in bytes.
    #[inline]
    pub fn site_len(&self, site: &Site) -> usize {
        self.site_len_below(site, usize::MAX).unwrap_or(1)
    }

    /// The same if its indices are valid and that of its expression is below `exprs`.
    #[inline]
    pub(crate) fn site_len_below(&self, site: &Site, exprs: usize) -> Option<usize> {
        let index = site.index() as usize;
        match site.kind()? {
            SiteKind::Choice => (index < self.templates.len()).then(|| self.templates.at(index).len as usize),
            SiteKind::Const if index < self.consts.len() => {
                ConstClass::new(self.consts.at(index).class).map(ConstClass::width)
            }
            SiteKind::Const => None,
            kind => (index < exprs || !kind.has_expr()).then_some(kind.width()),
        }
    }

    pub(crate) fn bytes_len(&self) -> usize {
        self.bytes.len()
    }
    pub(crate) fn names_valid(&self) -> bool {
        self.names.last().is_none_or(|b| *b == 0)
    }
}
