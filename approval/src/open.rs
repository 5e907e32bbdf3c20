//! From bytes to a view: check once
//!
//! [`open`] is the only way from bytes to a [`View`]. It checks length, version, checksum, then every index in every
//! record, so that what reads the view later needs no error path of its own; but for packed pages, whose blocks are looked
//! into one by one when they are needed.
use core::fmt;
use core::ops::Range;

use xxhash_rust::xxh64::Xxh64;

use crate::pages::Pages;
use crate::view::{Launch, Table, View};
use crate::wire::*;
use crate::{PAGE, check};

/// Why a file is not an approval this version can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Shorter than a header, or than the length the header names.
    Truncated,
    /// Longer than the length the header names.
    Trailing,
    /// Does not begin with the magic bytes.
    NotAnApproval,
    /// Compressed, as the host tool writes it for boot loaders that unpack what they load.
    Compressed,
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
            Self::Compressed => {
                write!(f, "the approval is compressed, and was not unpacked (GRUB does, after insmod gzio)")
            }
            Self::Version(v) => write!(f, "the approval has format version {v}, this program reads {VERSION}"),
            Self::Checksum => write!(f, "the approval's checksum does not match: the file is damaged"),
            Self::Section(i) => write!(f, "the approval's section {i} is malformed"),
            Self::Record(s, i) => write!(f, "the approval's record {i} in section {s:?} is malformed"),
        }
    }
}

impl core::error::Error for Error {}

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
    if header.starts_with(&GZIP) {
        return Err(Error::Compressed);
    }
    if !header.iter().zip(&MAGIC).all(|(byte, magic)| byte == magic) {
        return Err(Error::NotAnApproval);
    }
    if header.len() < HEADER_LEN {
        return Err(Error::Truncated);
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
    Ok(((len(Section::Pages) / Page::SIZE as u64).saturating_sub(1), len(Section::Vars) / Var::SIZE as u64))
}

/// Checks that only tests leave out.
const CHECKS: bool = !cfg!(feature = "without-checks");

/// A file that was checked: it can be moved, and read.
pub struct Opened<'a> {
    pub(crate) file: &'a mut [u8],
    bounds: Bounds,
}

/// Where each section begins, and its length.
type Bounds = [(usize, usize); SECTIONS];

/// Checks a file and splits it into what starts the kernel, what judges it, and the pages.
pub fn open(file: &mut [u8]) -> Result<(Launch<'_>, View<'_>, Pages<'_>), Error> {
    Ok(Opened::new(file)?.parts())
}

impl<'a> Opened<'a> {
    /// Checks a file.
    pub fn new(file: &'a mut [u8]) -> Result<Self, Error> {
        let bounds = bounds(file)?;
        let (launch, view, pages) = split(file, &bounds)?;
        if CHECKS {
            check::view(&view, pages.code().len())?;
            check::launch(&launch, &view)?;
        }
        Ok(Self { file, bounds })
    }

    /// What starts the kernel, what judges it, and the pages.
    pub fn parts(self) -> (Launch<'a>, View<'a>, Pages<'a>) {
        split(self.file, &self.bounds).expect("the file was split when it was opened")
    }

    /// The same, to look at for now.
    pub fn look(&mut self) -> (Launch<'_>, View<'_>) {
        let (launch, view, _) = split(self.file, &self.bounds).expect("the file was split when it was opened");
        (launch, view)
    }

    /// Where a section is in the file.
    pub(crate) fn range(&self, section: Section) -> Range<usize> {
        let (at, len) = self.bounds[section as usize];
        at..at + len
    }
}

/// Checks header and checksum, and where the sections are.
fn bounds(file: &[u8]) -> Result<Bounds, Error> {
    let total = length(file)?;
    if (file.len() as u64) < total {
        return Err(Error::Truncated);
    }
    if file.len() as u64 > total {
        return Err(Error::Trailing);
    }
    if CHECKS && checksum(file) != u64_at(file, CHECKSUM_OFFSET) {
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
    let code_ok = end == total && bounds[Section::Code as usize].0.is_multiple_of(PAGE);
    let runtime_offset = u64_at(file, RUNTIME_OFFSET);
    if !code_ok || !runtime_offset.is_multiple_of(PAGE as u64) {
        return Err(Error::Section(Section::Code as usize));
    }
    let kept = bounds[Section::Info as usize].0 as u64;
    let (last_at, last_len) = bounds[Section::Info as usize - 1];
    if runtime_offset > kept || runtime_offset < (last_at + last_len) as u64 {
        return Err(Error::Section(Section::Info as usize));
    }
    Ok(bounds)
}

/// A file's sections as tables.
fn split<'f>(file: &'f mut [u8], bounds: &Bounds) -> Result<(Launch<'f>, View<'f>, Pages<'f>), Error> {
    let runtime_offset = u64_at(file, RUNTIME_OFFSET);
    let (meta, code) = file.split_at_mut(bounds[Section::Code as usize].0);
    let meta: &[u8] = meta;
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
    let launch = Launch { runs: table!(Runs), data: raw(Section::Data), relocs: table!(Relocs), runtime_offset };
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
        page_table: table!(Pages),
        bytes: raw(Section::Bytes),
        names: raw(Section::Names),
        packed: raw(Section::Packed),
    };
    let pages = Pages::new(&view, code);
    Ok((launch, view, pages))
}
