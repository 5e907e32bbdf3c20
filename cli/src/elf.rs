//! The unpacked kernel as an ELF file: sections by name, bytes by address
use anyhow::{Context, Result, anyhow, bail};
use object::LittleEndian;
use object::elf::{FileHeader64, PT_LOAD, SHF_ALLOC, SHT_NOBITS};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

use crate::bytes::u64_at;

/// Addresses this close to the end of the address space belong to no section, so that sums stay below it.
const MARGIN: u64 = 1 << 20;

/// A section that is part of the running kernel.
#[derive(Clone, Debug)]
pub struct Section<'a> {
    /// Name.
    pub name: &'a str,
    /// Virtual address.
    pub address: u64,
    /// Contents; empty for sections without any in the file.
    pub bytes: &'a [u8],
}

impl Section<'_> {
    /// Address behind the last byte.
    pub fn end(&self) -> u64 {
        self.address + self.bytes.len() as u64
    }
    /// Whether an address lies in it.
    pub fn contains(&self, address: u64) -> bool {
        (self.address..self.end()).contains(&address)
    }
}

/// A loadable segment.
#[derive(Clone, Debug)]
pub struct Segment<'a> {
    /// Virtual address.
    pub address: u64,
    /// Physical address.
    pub physical: u64,
    /// Size in memory.
    pub size: u64,
    /// Contents in the file, at most `size` bytes.
    pub bytes: &'a [u8],
}

/// A linked kernel.
pub struct Image<'a> {
    /// Physical entry point.
    pub entry: u64,
    /// Loadable segments.
    pub segments: Vec<Segment<'a>>,
    /// Sections with an address.
    pub sections: Vec<Section<'a>>,
    /// What follows the section headers: the relocation table.
    pub tail: &'a [u8],
}

impl<'a> Image<'a> {
    /// Reads the headers.
    pub fn parse(file: &'a [u8]) -> Result<Self> {
        let header = FileHeader64::<LittleEndian>::parse(file).context("not an ELF file")?;
        let endian = LittleEndian;
        if header.e_machine(endian) != object::elf::EM_X86_64 {
            bail!("not an x86-64 ELF file");
        }
        let mut segments = Vec::new();
        for p in header.program_headers(endian, file)?.iter().filter(|p| p.p_type(endian) == PT_LOAD) {
            let bytes = p.data(endian, file).map_err(|()| anyhow!("segment behind the end of the file"))?;
            let (address, physical, size) = (p.p_vaddr(endian), p.p_paddr(endian), p.p_memsz(endian));
            if bytes.len() as u64 > size || physical.checked_add(size).is_none() || address.checked_add(size).is_none()
            {
                bail!("impossible segment at {address:#x}");
            }
            segments.push(Segment { address, physical, size, bytes });
        }
        let table = header.sections(endian, file)?;
        let mut sections = Vec::new();
        for s in table.iter().filter(|s| s.sh_flags(endian) & SHF_ALLOC as u64 != 0) {
            let name = std::str::from_utf8(table.section_name(endian, s)?).context("section name")?;
            let empty = s.sh_type(endian) == SHT_NOBITS;
            let bytes = if empty { &[][..] } else { s.data(endian, file)? };
            let address = s.sh_addr(endian);
            if address.checked_add(bytes.len() as u64).is_none_or(|end| end > u64::MAX - MARGIN) {
                bail!("impossible section {name}");
            }
            sections.push(Section { name, address, bytes });
        }
        let headers = header.e_shnum(endian) as usize * size_of::<object::elf::SectionHeader64<LittleEndian>>();
        let end = (header.e_shoff(endian) as usize).checked_add(headers);
        let tail = end.and_then(|end| file.get(end..)).context("truncated section headers")?;
        Ok(Self { entry: header.e_entry(endian), segments, sections, tail })
    }

    /// A section by name.
    pub fn section(&self, name: &str) -> Option<&Section<'a>> {
        self.sections.iter().find(|s| s.name == name)
    }

    /// A section that must be there.
    pub fn need(&self, name: &str) -> Result<&Section<'a>> {
        self.section(name).with_context(|| format!("the kernel has no section {name}"))
    }

    /// The section with contents that holds an address.
    pub fn section_at(&self, address: u64) -> Option<&Section<'a>> {
        self.sections.iter().find(|s| s.contains(address))
    }

    /// `len` bytes at a virtual address.
    pub fn bytes(&self, address: u64, len: usize) -> Result<&'a [u8]> {
        self.sections
            .iter()
            .filter(|s| s.contains(address))
            .find_map(|s| s.bytes.get((address - s.address) as usize..)?.get(..len))
            .with_context(|| format!("the kernel has no {len} bytes at {address:#x}"))
    }

    /// The `u64` at a virtual address.
    pub fn u64(&self, address: u64) -> Result<u64> {
        Ok(u64_at(self.bytes(address, 8)?, 0).unwrap_or_default())
    }

    /// The string at a virtual address.
    pub fn string(&self, address: u64) -> Result<String> {
        let section = self.section_at(address).with_context(|| format!("the kernel has no string at {address:#x}"))?;
        let tail = &section.bytes[(address - section.address) as usize..];
        let text = tail.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8(text.to_vec()).with_context(|| format!("string at {address:#x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_kernel() {
        assert!(Image::parse(b"").is_err());
        assert!(Image::parse(b"\x7fELF\x02\x01\x01").is_err());
        assert!(Image::parse(&[0; 4096]).is_err());
    }
}
