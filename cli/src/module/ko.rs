//! A module's file: decompressing and reading it
//!
//! A `.ko` is a relocatable ELF object. Only what the module loader itself looks at is read here, and nothing
//! is trusted: every offset is checked once, while the file is opened.
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use object::elf;
use object::read::elf::{FileHeader, SectionHeader};

/// Endings of the files that are modules.
pub const ENDINGS: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];
/// Longest module that is read; the stock ones stay below a tenth of it.
const LONGEST: u64 = 512 << 20;

/// The tables of patch sites; besides these, code and exports (`__ksymtab*`) are read. To read another is an error.
const TABLES: [&str; 9] = [
    ".altinstructions",
    ".parainstructions",
    ".retpoline_sites",
    ".return_sites",
    ".ibt_endbr_seal",
    ".smp_locks",
    "__mcount_loc",
    "__jump_table",
    ".static_call_sites",
];

type Header = elf::FileHeader64<object::LittleEndian>;
const LE: object::LittleEndian = object::LittleEndian;

/// A module's file.
pub struct Ko {
    /// Where it came from.
    pub path: PathBuf,
    /// Name as Linux prints it.
    pub name: String,
    /// `vermagic` of its `.modinfo`.
    pub vermagic: String,
    /// Sections, by index.
    pub sections: Vec<Section>,
    /// Symbols, by index.
    pub symbols: Vec<Symbol>,
    data: Vec<u8>,
}

/// A section.
#[derive(Clone, Debug)]
pub struct Section {
    /// Name.
    pub name: String,
    /// `sh_flags`.
    pub flags: u64,
    /// Length in memory.
    pub size: u64,
    /// Alignment in memory, at least 1.
    pub align: u64,
    /// Where its bytes are in the file, empty if it has none; `None` once they are dropped.
    bytes: Option<Range<usize>>,
    /// Where its relocations are in the file; `None` once they are dropped.
    relocations: Option<Range<usize>>,
}

impl Section {
    /// Whether the section holds code that is loaded.
    pub fn is_code(&self) -> bool {
        let both = u64::from(elf::SHF_ALLOC | elf::SHF_EXECINSTR);
        self.flags & both == both
    }
}

/// Where a symbol is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// In another module or in the kernel.
    Undefined {
        /// Whether it may be missing.
        weak: bool,
    },
    /// Nowhere: its value is a number.
    Absolute,
    /// In a section.
    Section(usize),
    /// In a way modules do not use (common, reserved indices).
    Odd,
}

/// A symbol.
#[derive(Clone, Debug)]
pub struct Symbol {
    name: Range<usize>,
    /// Where it is.
    pub home: Home,
    /// Offset in its section, or its value.
    pub value: u64,
    /// Its `STT_` type.
    pub kind: u8,
}

/// A relocation.
#[derive(Clone, Copy, Debug)]
pub struct Relocation {
    /// Offset in the section it changes.
    pub offset: u64,
    /// Its `R_X86_64_` type.
    pub kind: u32,
    /// Index of the symbol.
    pub symbol: usize,
    /// Added to the symbol.
    pub addend: i64,
}

impl Ko {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path, contents(path)?)
    }

    /// Reads a module from its decompressed bytes.
    pub fn parse(path: &Path, data: Vec<u8>) -> Result<Self> {
        let header = Header::parse(&*data).context("not an ELF file")?;
        let machine = (header.e_type.get(LE), header.e_machine.get(LE));
        ensure!(machine == (elf::ET_REL, elf::EM_X86_64), "not a relocatable x86-64 object");
        let headers = header.section_headers(LE, &*data)?;
        let names = header.section_strings(LE, &*data, headers)?;
        let range = |h: &elf::SectionHeader64<object::LittleEndian>| -> Result<Range<usize>> {
            let Some((at, len)) = h.file_range(LE) else { return Ok(0..0) };
            let end =
                at.checked_add(len).filter(|end| *end <= data.len() as u64).context("a section leaves the file")?;
            Ok(at as usize..end as usize)
        };
        let mut sections = Vec::with_capacity(headers.len());
        for h in headers {
            let align = h.sh_addralign.get(LE).max(1);
            ensure!(align.is_power_of_two() && align <= 4096, "a section asks for an alignment of {align:#x}");
            ensure!(h.sh_size.get(LE) <= LONGEST, "a section is too long");
            sections.push(Section {
                name: std::str::from_utf8(h.name(LE, names)?)?.to_owned(),
                flags: h.sh_flags.get(LE),
                size: h.sh_size.get(LE),
                align,
                bytes: Some(range(h)?),
                relocations: Some(0..0),
            });
        }
        let mut symbols = Vec::new();
        for (index, h) in headers.iter().enumerate() {
            match h.sh_type.get(LE) {
                elf::SHT_SYMTAB if symbols.is_empty() => symbols = read_symbols(headers, index, &range, &data)?,
                elf::SHT_RELA => {
                    let target = h.sh_info.get(LE) as usize;
                    ensure!(target < sections.len(), "a relocation section has no target");
                    let at = range(h)?;
                    ensure!(at.len().is_multiple_of(24), "a relocation section is cut short");
                    let before = sections[target].relocations.replace(at);
                    ensure!(before.is_none_or(|b| b.is_empty()), "a section has two relocation sections");
                }
                elf::SHT_REL => bail!("relocations without addends"),
                _ => {}
            }
        }
        let mut ko =
            Self { path: path.to_owned(), name: String::new(), vermagic: String::new(), sections, symbols, data };
        ko.name = ko.modinfo("name").context("its .modinfo has no name")?.replace('-', "_");
        ko.vermagic = ko.modinfo("vermagic").context("its .modinfo has no vermagic")?.to_owned();
        ensure!(ko.section(".gnu.linkonce.this_module").is_some(), "it holds no struct module");
        ko.keep_what_is_read();
        Ok(ko)
    }

    /// Whether both are the same module, byte by byte.
    pub fn same(&self, other: &Self) -> Result<bool> {
        Ok(contents(&self.path)? == contents(&other.path)?)
    }

    /// Drops the contents and relocations of every section but code, patch tables and exports: most of a file is
    /// debugging information and tables that nothing here looks at, and there are thousands of files.
    fn keep_what_is_read(&mut self) {
        let starts = self.symbols.iter().map(|s| s.name.start).min().unwrap_or(0);
        let ends = self.symbols.iter().map(|s| s.name.end).max().unwrap_or(0);
        let mut kept = self.data[starts..ends].to_vec();
        self.symbols.iter_mut().for_each(|s| s.name = s.name.start - starts..s.name.end - starts);
        let mut keep = |range: Range<usize>| {
            let at = kept.len();
            kept.extend_from_slice(&self.data[range]);
            at..kept.len()
        };
        for section in &mut self.sections {
            let alloc = section.flags & u64::from(elf::SHF_ALLOC) != 0;
            let read = section.is_code() || TABLES.contains(&&*section.name) || section.name.starts_with("__ksymtab");
            section.bytes = section.bytes.take().filter(|_| alloc && read).map(&mut keep);
            section.relocations = section.relocations.take().filter(|_| alloc && read).map(&mut keep);
        }
        kept.shrink_to_fit();
        self.data = kept;
    }

    /// Index of the first loaded section of a name.
    pub fn section(&self, name: &str) -> Option<usize> {
        let alloc = u64::from(elf::SHF_ALLOC);
        self.sections.iter().position(|s| s.flags & alloc != 0 && s.name == name)
    }

    /// A section's bytes; none if it only takes up memory.
    pub fn bytes(&self, section: usize) -> Result<&[u8]> {
        self.kept(section, |s| &s.bytes)
    }

    fn kept(&self, section: usize, part: fn(&Section) -> &Option<Range<usize>>) -> Result<&[u8]> {
        let section = &self.sections[section];
        let range = part(section).clone();
        Ok(&self.data[range.with_context(|| format!("its section {} is none of those that are read", section.name))?])
    }

    /// A symbol's name.
    pub fn name_of(&self, symbol: &Symbol) -> &str {
        std::str::from_utf8(&self.data[symbol.name.clone()]).unwrap_or("")
    }

    /// A section's relocations, in the order of the file.
    pub fn relocations(&self, section: usize) -> Result<impl Iterator<Item = Relocation> + '_> {
        let u64_at = |b: &[u8], at: usize| u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
        Ok(self.kept(section, |s| &s.relocations)?.chunks_exact(24).map(move |r| {
            let info = u64_at(r, 8);
            Relocation {
                offset: u64_at(r, 0),
                kind: info as u32,
                symbol: (info >> 32) as usize,
                addend: u64_at(r, 16) as i64,
            }
        }))
    }

    /// A value of `.modinfo`.
    fn modinfo(&self, key: &str) -> Option<&str> {
        let info = self.bytes(self.section(".modinfo")?).ok()?;
        let line = |s| std::str::from_utf8(s).ok()?.strip_prefix(key)?.strip_prefix('=');
        info.split(|b| *b == 0).find_map(line)
    }
}

fn read_symbols(
    headers: &[elf::SectionHeader64<object::LittleEndian>],
    index: usize,
    range: &impl Fn(&elf::SectionHeader64<object::LittleEndian>) -> Result<Range<usize>>,
    data: &[u8],
) -> Result<Vec<Symbol>> {
    let table = range(&headers[index])?;
    let strings = headers.get(headers[index].sh_link.get(LE) as usize).context("symbols without names")?;
    let strings = range(strings)?;
    let entries = object::pod::slice_from_all_bytes::<elf::Sym64<object::LittleEndian>>(&data[table]);
    let Ok(entries) = entries else { bail!("the symbol table is cut short") };
    let mut symbols = Vec::with_capacity(entries.len());
    for s in entries {
        let start = strings.start + s.st_name.get(LE) as usize;
        ensure!(start < strings.end, "a symbol's name lies outside its table");
        let len = data[start..strings.end].iter().position(|b| *b == 0).context("a symbol's name does not end")?;
        let home = match s.st_shndx.get(LE) {
            elf::SHN_UNDEF => Home::Undefined { weak: s.st_bind() == elf::STB_WEAK },
            elf::SHN_ABS => Home::Absolute,
            section if (section as usize) < headers.len() => Home::Section(section as usize),
            _ => Home::Odd,
        };
        symbols.push(Symbol { name: start..start + len, home, value: s.st_value.get(LE), kind: s.st_type() });
    }
    Ok(symbols)
}

/// A file's bytes, decompressed by its ending.
pub fn contents(path: &Path) -> Result<Vec<u8>> {
    let file = std::fs::read(path)?;
    let mut out = Vec::new();
    let input = file.as_slice();
    match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => liblzma::read::XzDecoder::new_multi_decoder(input).take(LONGEST).read_to_end(&mut out)?,
        Some("zst") => zstd::stream::read::Decoder::new(input)?.take(LONGEST).read_to_end(&mut out)?,
        Some("gz") => flate2::read::MultiGzDecoder::new(input).take(LONGEST).read_to_end(&mut out)?,
        _ => return Ok(file),
    };
    Ok(out)
}
