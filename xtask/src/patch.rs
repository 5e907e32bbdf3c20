//! Stock modules with one thing changed, which SecVisor must notice and Linux alone does not.

use anyhow::{Context, Result, bail, ensure};
use object::LittleEndian;
use object::elf::{FileHeader64, Rela64, SHT_RELA, SectionHeader64};
use object::read::elf::{FileHeader, SectionHeader, SectionTable, Sym};

/// What a signed module ends with (scripts/sign-file.c).
const SIGNATURE_MAGIC: &[u8] = b"~Module signature appended~\n";

/// `struct module_signature` before the magic; its last four bytes are the signature's length, big-endian.
const SIGNATURE_INFO: usize = 12;

const RELA_SIZE: usize = size_of::<Rela64<LittleEndian>>();

/// The place of `r_info` in a relocation; its upper half is the symbol's number.
const RELA_SYMBOL: usize = 8 + 4;

/// The place of `sh_offset` in a section's header; `sh_size` follows.
const SECTION_OFFSET: usize = 24;

/// A module being changed; not signed any more, or Linux would refuse it by itself.
pub struct Module(Vec<u8>);

impl Module {
    /// Takes the signature off.
    pub fn unsigned(mut bytes: Vec<u8>) -> Result<Module> {
        if let Some(signed) = bytes.strip_suffix(SIGNATURE_MAGIC) {
            let length = signed.last_chunk().context("a signature without its length")?;
            let length = u32::from_be_bytes(*length) as usize + SIGNATURE_INFO;
            let end = signed.len().checked_sub(length).context("a signature longer than its module")?;
            bytes.truncate(end);
        }
        Ok(Module(bytes))
    }

    /// Changes one byte: in the only place of the section where `code` is, the byte at `at` becomes `value`.
    pub fn with_byte(mut self, section: &str, code: &[u8], at: usize, value: u8) -> Result<Module> {
        let elf = Elf::parse(&self.0)?;
        let (_, header) = elf.section(section)?;
        let (start, length) = header.file_range(LittleEndian).context("a section without content")?;
        let start = start as usize;
        let content = self.0.get(start..start + length as usize).context("a section outside its file")?;
        let mut found = content.windows(code.len()).enumerate().filter(|(_, window)| *window == code);
        let (Some((place, _)), None) = (found.next(), found.next()) else {
            bail!("{section} has not exactly one {code:02x?}");
        };
        ensure!(at < code.len() && code[at] != value, "nothing would be changed");
        self.0[start + place + at] = value;
        Ok(self)
    }

    /// Changes one relocation: the only one of the section against the symbol `from` goes to `to`.
    pub fn with_relocation(mut self, section: &str, from: &str, to: &str) -> Result<Module> {
        let elf = Elf::parse(&self.0)?;
        let (section_index, _) = elf.section(section)?;
        let (from, to) = (elf.symbol(from)?, elf.symbol(to)?);
        let mut found = elf.relocations_of(section_index)?.into_iter().filter(|(_, symbol)| *symbol == from);
        let (Some((place, _)), None) = (found.next(), found.next()) else {
            bail!("{section} has not exactly one such relocation");
        };
        self.0[place + RELA_SYMBOL..][..4].copy_from_slice(&to.to_le_bytes());
        Ok(self)
    }

    /// How long a section is.
    pub fn section_size(&self, section: &str) -> Result<u64> {
        Ok(Elf::parse(&self.0)?.section(section)?.1.sh_size(LittleEndian))
    }

    /// Gives a section another length: what is added is zero.
    pub fn with_section_size(mut self, section: &str, size: u64) -> Result<Module> {
        let elf = Elf::parse(&self.0)?;
        let (index, header) = elf.section(section)?;
        let (start, length) = header.file_range(LittleEndian).context("a section without content")?;
        let mut content = self.0.get(start as usize..(start + length) as usize).context("a section outside")?.to_vec();
        content.resize(size as usize, 0);
        let headers = FileHeader64::<LittleEndian>::parse(&*self.0)?.e_shoff(LittleEndian) as usize;
        let header = headers + index * size_of::<SectionHeader64<LittleEndian>>();
        self.0.resize(self.0.len().next_multiple_of(64), 0);
        let moved = self.0.len() as u64;
        self.0.extend(content);
        self.0[header + SECTION_OFFSET..][..8].copy_from_slice(&moved.to_le_bytes());
        self.0[header + SECTION_OFFSET + 8..][..8].copy_from_slice(&size.to_le_bytes());
        Ok(self)
    }

    /// The file.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

struct Elf<'a> {
    bytes: &'a [u8],
    sections: SectionTable<'a, FileHeader64<LittleEndian>>,
}

impl<'a> Elf<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Elf<'a>> {
        let header = FileHeader64::<LittleEndian>::parse(bytes)?;
        Ok(Elf { bytes, sections: header.sections(LittleEndian, bytes)? })
    }

    fn section(&self, name: &str) -> Result<(usize, &'a <FileHeader64<LittleEndian> as FileHeader>::SectionHeader)> {
        let found = self.sections.section_by_name(LittleEndian, name.as_bytes());
        let (index, header) = found.with_context(|| format!("no section {name}"))?;
        Ok((index.0, header))
    }

    /// The number of the symbol that is called so.
    fn symbol(&self, name: &str) -> Result<u32> {
        let symbols = self.sections.symbols(LittleEndian, self.bytes, object::elf::SHT_SYMTAB)?;
        let strings = symbols.strings();
        let mut named = symbols.enumerate().filter(|(_, s)| s.name(LittleEndian, strings) == Ok(name.as_bytes()));
        let (index, _) = named.next().with_context(|| format!("no symbol {name}"))?;
        Ok(index.0 as u32)
    }

    /// The relocations that apply to a section: where in the file they are, and their symbols.
    fn relocations_of(&self, section: usize) -> Result<Vec<(usize, u32)>> {
        let mut all = Vec::new();
        for header in self.sections.iter() {
            if header.sh_type(LittleEndian) != SHT_RELA || header.sh_info(LittleEndian) as usize != section {
                continue;
            }
            let (entries, _) = header.rela(LittleEndian, self.bytes)?.context("relocations without content")?;
            let start = header.sh_offset(LittleEndian) as usize;
            let places = (start..).step_by(RELA_SIZE);
            all.extend(places.zip(entries.iter().map(|entry| entry.r_sym(LittleEndian, false))));
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_taken_off() {
        let signature = [1u8; 5];
        let info = [&[0u8; 8][..], &5u32.to_be_bytes()].concat();
        let signed = [b"module", &signature[..], &info, SIGNATURE_MAGIC].concat();
        assert_eq!(Module::unsigned(signed).unwrap().into_bytes(), b"module");
        assert_eq!(Module::unsigned(b"module".to_vec()).unwrap().into_bytes(), b"module");
        assert!(Module::unsigned([&info, SIGNATURE_MAGIC].concat()).is_err());
    }
}
