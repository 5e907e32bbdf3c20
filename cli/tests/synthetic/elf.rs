//! An ELF file of any sections

/// Flags of sections.
pub const ALLOC: u64 = 2;
pub const WRITE: u64 = 1;
pub const EXEC: u64 = 4;

/// The kind of section that is in the file as it is.
const PROGBITS: u32 = 1;

/// A section of an ELF file.
#[derive(Clone)]
pub struct Section {
    pub name: String,
    pub kind: u32,
    pub flags: u64,
    pub address: u64,
    pub bytes: Vec<u8>,
    pub link: u32,
    pub info: u32,
    pub align: u64,
    pub entry: u64,
}

impl Section {
    pub fn new(name: &str, flags: u64, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), kind: PROGBITS, flags, address: 0, bytes, link: 0, info: 0, align: 16, entry: 0 }
    }
}

/// An ELF file of these sections; with `physical`, of one segment that holds them all.
pub fn elf(kind: u16, entry: u64, physical: Option<u64>, mut sections: Vec<Section>) -> Vec<u8> {
    sections.insert(0, Section { kind: 0, align: 0, ..Section::new("", 0, Vec::new()) });
    sections.push(Section { kind: 3, ..Section::new(".shstrtab", 0, Vec::new()) });
    let mut names = vec![0];
    let name_at: Vec<u32> = sections
        .iter()
        .map(|s| {
            let at = names.len() as u32;
            names.extend(s.name.bytes().chain([0]));
            at
        })
        .collect();
    sections.last_mut().unwrap().bytes = names;
    let mut file = vec![0; 0x1000];
    let mut offsets = Vec::new();
    let first = sections.iter().find(|s| s.address != 0).map_or(0, |s| s.address);
    for s in &sections {
        if s.address != 0 {
            file.resize(0x1000 + (s.address - first) as usize, 0);
        } else {
            file.resize(file.len().next_multiple_of(16), 0);
        }
        offsets.push(file.len() as u64);
        file.extend(&s.bytes);
    }
    let end = sections.iter().rposition(|s| s.address != 0).map(|i| offsets[i] + sections[i].bytes.len() as u64);
    file.resize(file.len().next_multiple_of(16), 0);
    let table = file.len() as u64;
    for ((s, name), offset) in sections.iter().zip(&name_at).zip(&offsets) {
        put(&mut file, &[&name.to_le_bytes(), &s.kind.to_le_bytes(), &s.flags.to_le_bytes()]);
        put(&mut file, &[&s.address.to_le_bytes(), &offset.to_le_bytes()]);
        put(&mut file, &[&(s.bytes.len() as u64).to_le_bytes(), &s.link.to_le_bytes(), &s.info.to_le_bytes()]);
        put(&mut file, &[&s.align.to_le_bytes(), &s.entry.to_le_bytes()]);
    }
    let mut head = Vec::new();
    put(&mut head, &[b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0", &kind.to_le_bytes(), &62u16.to_le_bytes()]);
    put(&mut head, &[&1u32.to_le_bytes(), &entry.to_le_bytes(), &64u64.to_le_bytes(), &table.to_le_bytes()]);
    put(&mut head, &[&[0; 4], &64u16.to_le_bytes(), &56u16.to_le_bytes()]);
    put(&mut head, &[&u16::from(physical.is_some()).to_le_bytes(), &64u16.to_le_bytes()]);
    put(&mut head, &[&(sections.len() as u16).to_le_bytes(), &(sections.len() as u16 - 1).to_le_bytes()]);
    if let (Some(physical), Some(end)) = (physical, end) {
        let len = end - 0x1000;
        put(&mut head, &[&1u32.to_le_bytes(), &7u32.to_le_bytes(), &0x1000u64.to_le_bytes(), &first.to_le_bytes()]);
        put(&mut head, &[&physical.to_le_bytes(), &len.to_le_bytes(), &len.to_le_bytes(), &0x1000u64.to_le_bytes()]);
    }
    file[..head.len()].copy_from_slice(&head);
    file
}

/// Appends them all.
pub fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|p| out.extend_from_slice(p));
}
