//! Reading an approval: check once, then borrow
//!
//! [`open`] is the only way from bytes to a [`View`]. It checks length, version, checksum, then every
//! index in every record, so that what reads the view later needs no error path of its own.
use core::fmt;

use xxhash_rust::xxh64::Xxh64;

use crate::wire::*;
use crate::{PAGE, PageBytes};

/// Why a file is not an approval this version can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Shorter than a header, or than the length the header names.
    Truncated,
    /// Longer than the length the header names.
    Trailing,
    /// Does not begin with the magic bytes.
    NotAnApproval,
    /// Another version of the layout.
    Version(u32),
    /// The checksum does not match: the file was damaged.
    Checksum,
    /// A section lies outside the file or out of order, or its length is no multiple of its records'.
    Section(usize),
    /// A record of this section refers to something that is not there, or holds an impossible value.
    Record(Section, usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => write!(f, "the approval is truncated"),
            Self::Trailing => write!(f, "the approval has trailing bytes"),
            Self::NotAnApproval => write!(f, "not an approval file"),
            Self::Version(v) => write!(f, "the approval has format version {v}, this program reads {VERSION}"),
            Self::Checksum => write!(f, "the approval's checksum does not match: the file is damaged"),
            Self::Section(i) => write!(f, "the approval's section {i} is malformed"),
            Self::Record(s, i) => write!(f, "the approval's record {i} in section {s:?} is malformed"),
        }
    }
}

impl core::error::Error for Error {}

/// A table of records, decoded as they are read.
#[derive(Clone, Copy)]
pub struct Table<'a, T> {
    bytes: &'a [u8],
    record: core::marker::PhantomData<T>,
}

impl<'a, T: Record> Table<'a, T> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
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
    /// File offset from where the hypervisor keeps the approval; a multiple of the page size.
    pub runtime_offset: u64,
}

/// A checked approval, without the pages' bytes.
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
    page_sites: Table<'a, PageSite>,
    bytes: &'a [u8],
    names: &'a [u8],
}

/// Index of the first site of a page.
#[derive(Clone, Copy)]
struct PageSite(u32);

impl Record for PageSite {
    const SIZE: usize = 4;
    #[inline]
    fn read(bytes: &[u8]) -> Self {
        Self(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
    #[cfg(feature = "std")]
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
    }
}

impl<'a> View<'a> {
    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.page_sites.len() - 1
    }
    /// Indices of the sites that start in a page.
    #[inline]
    pub fn sites_of(&self, page: usize) -> core::ops::Range<usize> {
        self.page_sites.at(page).0 as usize..self.page_sites.at(page + 1).0 as usize
    }
    /// The bytes of a variant of length `len`, before fixes.
    #[inline]
    pub fn variant_bytes(&self, variant: &Variant, len: usize) -> &'a [u8] {
        &self.bytes[variant.bytes as usize..][..len]
    }
    /// The string at an offset of the names; empty if there is none.
    pub fn name(&self, offset: u32) -> &'a str {
        let tail = self.names.get(offset as usize..).unwrap_or(&[]);
        let end = tail.iter().position(|b| *b == 0).unwrap_or(0);
        core::str::from_utf8(&tail[..end]).unwrap_or("")
    }
    /// The symbol that covers an offset of a region.
    pub fn symbol_at(&self, region: &Region, offset: u32) -> Option<Symbol> {
        let (mut low, mut high) = (region.first_symbol as usize, (region.first_symbol + region.symbols) as usize);
        let first = low;
        while low < high {
            let mid = low.midpoint(high);
            if self.symbols.at(mid).offset <= offset { low = mid + 1 } else { high = mid }
        }
        (low > first).then(|| self.symbols.at(low - 1))
    }
    /// Whether a function of the region starts at `offset`. Several symbols may share an offset.
    pub fn function_at(&self, region: &Region, offset: u32) -> bool {
        let (first, mut low) = (region.first_symbol as usize, region.first_symbol as usize);
        let mut high = first + region.symbols as usize;
        while low < high {
            let mid = low.midpoint(high);
            if self.symbols.at(mid).offset <= offset { low = mid + 1 } else { high = mid }
        }
        (first..low).rev().map(|i| self.symbols.at(i)).take_while(|s| s.offset == offset).any(|s| s.is_function())
    }
    /// The region that holds a page.
    pub fn region_of_page(&self, page: u32) -> usize {
        let (mut low, mut high) = (0, self.regions.len());
        while low < high {
            let mid = low.midpoint(high);
            if self.regions.at(mid).first_page <= page { low = mid + 1 } else { high = mid }
        }
        low - 1
    }
}

/// The checksum of a file: XXH64, the checksum field read as zero.
pub fn checksum(file: &[u8]) -> u64 {
    let mut hash = Xxh64::new(0);
    hash.update(&file[..CHECKSUM_OFFSET]);
    hash.update(&[0; 8]);
    hash.update(&file[CHECKSUM_OFFSET + 8..]);
    hash.digest()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u32_at(bytes, at) as u64 | (u32_at(bytes, at + 4) as u64) << 32
}

/// Length of the approval that begins here, from its header alone, so that a loader knows how much to move.
pub fn length(header: &[u8]) -> Result<u64, Error> {
    if header.len() < HEADER_LEN {
        return Err(Error::Truncated);
    }
    if header[..8] != MAGIC {
        return Err(Error::NotAnApproval);
    }
    match u32_at(header, 8) {
        VERSION => Ok(u64_at(header, 16)),
        other => Err(Error::Version(other)),
    }
}

/// Numbers of pages and variables of the approval that begins here, from its header alone. Not checked yet: for planning.
pub fn counts(header: &[u8]) -> Result<(u64, u64), Error> {
    length(header)?;
    let len = |s: Section| u64_at(header, SECTIONS_OFFSET + 16 * s as usize + 8);
    Ok((len(Section::Pages) / PAGE as u64, len(Section::Vars) / Var::SIZE as u64))
}

/// Checks a file and splits it into what starts the kernel, what judges it, and the pages.
pub fn open(file: &mut [u8]) -> Result<(Launch<'_>, View<'_>, &mut [PageBytes]), Error> {
    let total = length(file)?;
    if (file.len() as u64) < total {
        return Err(Error::Truncated);
    }
    if file.len() as u64 > total {
        return Err(Error::Trailing);
    }
    if checksum(file) != u64_at(file, CHECKSUM_OFFSET) {
        return Err(Error::Checksum);
    }
    let mut bounds = [(0usize, 0usize); SECTIONS];
    let mut end = HEADER_LEN as u64;
    for (i, bound) in bounds.iter_mut().enumerate() {
        let offset = u64_at(file, SECTIONS_OFFSET + 16 * i);
        let len = u64_at(file, SECTIONS_OFFSET + 16 * i + 8);
        if offset < end || offset > total || len > total - offset {
            return Err(Error::Section(i));
        }
        end = offset + len;
        *bound = (offset as usize, len as usize);
    }
    let runtime_offset = u64_at(file, 24);
    let (pages_at, pages_len) = bounds[Section::Pages as usize];
    let pages_ok = end == total && pages_at.is_multiple_of(PAGE) && pages_len.is_multiple_of(PAGE);
    if !pages_ok || !runtime_offset.is_multiple_of(PAGE as u64) {
        return Err(Error::Section(Section::Pages as usize));
    }
    let kept = bounds[Section::Info as usize].0 as u64;
    let launch_end = bounds[Section::Data as usize].0 as u64 + bounds[Section::Data as usize].1 as u64;
    if runtime_offset > kept || runtime_offset < launch_end {
        return Err(Error::Section(Section::Info as usize));
    }
    let (meta, pages) = file.split_at_mut(pages_at);
    let meta: &[u8] = meta;
    let (pages, _) = pages.as_chunks_mut::<PAGE>();
    let raw = |s: Section| &meta[bounds[s as usize].0..][..bounds[s as usize].1];
    fn table<T: Record>(bytes: &[u8], s: Section) -> Result<Table<'_, T>, Error> {
        Table::new(bytes).ok_or(Error::Section(s as usize))
    }
    macro_rules! table {
        ($s:ident) => {
            table(raw(Section::$s), Section::$s)?
        };
    }
    let info: Table<Info> = table!(Info);
    if info.len() != 1 {
        return Err(Error::Section(Section::Info as usize));
    }
    let launch = Launch { runs: table!(Runs), data: raw(Section::Data), runtime_offset };
    let view = View {
        info: info.at(0),
        regions: table!(Regions),
        modules: table!(Modules),
        vars: table!(Vars),
        exprs: table!(Exprs),
        sites: table!(Sites),
        templates: table!(Templates),
        variants: table!(Variants),
        fixes: table!(Fixes),
        consts: table!(Consts),
        symbols: table!(Symbols),
        page_sites: table!(PageSites),
        bytes: raw(Section::Bytes),
        names: raw(Section::Names),
    };
    crate::check::launch(&launch, &view.info)?;
    crate::check::view(&view, pages.len())?;
    Ok((launch, view, pages))
}

impl View<'_> {
    pub(crate) fn page_site_count(&self) -> usize {
        self.page_sites.len()
    }
    pub(crate) fn page_site(&self, index: usize) -> usize {
        self.page_sites.at(index).0 as usize
    }
    pub(crate) fn bytes_len(&self) -> usize {
        self.bytes.len()
    }
    pub(crate) fn names_valid(&self) -> bool {
        self.names.last().is_none_or(|b| *b == 0)
    }
}
