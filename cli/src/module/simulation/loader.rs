//! Reads a module, places it and relocates it, as `kernel/module/main.c` does
use std::collections::HashMap;
use std::ops::Range;

use secvisor_approval::wire::KERNEL;

use super::{Memory, Random, get16, get32, get64};
use crate::flavor::{Flavor, Patching};
use crate::kernel::Kernel;

/// Flags of sections.
const ALLOC: u64 = 2;
const WRITE: u64 = 1;
const EXEC: u64 = 4;
const RO_AFTER_INIT: u64 = 0x0020_0000;

#[derive(Clone, Default)]
struct Shdr {
    name: String,
    kind: u32,
    flags: u64,
    offset: usize,
    size: usize,
    link: usize,
    info: usize,
    align: u64,
    /// Where it was loaded; 0 if it was not.
    addr: u64,
}

/// A file and where it was loaded.
pub struct Loaded {
    pub name: String,
    data: Vec<u8>,
    sections: Vec<Shdr>,
    symtab: usize,
    strtab: usize,
    pub percpu: u64,
    pcpu_index: usize,
    /// Bases and lengths: of 6.1's two blocks or 6.12's seven.
    pub blocks: Vec<(u64, u64)>,
    pub text_size: u64,
    pub init_text_size: u64,
    pub init_block: usize,
}

fn text(b: &[u8], at: usize) -> &str {
    let end = b[at..].iter().position(|c| *c == 0).unwrap();
    std::str::from_utf8(&b[at..at + end]).unwrap()
}

fn find(sections: &[Shdr], name: &str) -> usize {
    (1..sections.len()).find(|i| sections[*i].flags & ALLOC != 0 && sections[*i].name == name).unwrap_or(0)
}

impl Loaded {
    /// `setup_load_info()`, `layout_and_allocate()`.
    pub fn new(data: Vec<u8>, flavor: Flavor, r: &mut Random) -> Self {
        let (shoff, shnum) = (get64(&data, 0x28) as usize, get16(&data, 0x3c));
        let headers: Vec<&[u8]> = (0..shnum).map(|i| &data[shoff + 64 * i..][..64]).collect();
        let names = get64(headers[get16(&data, 0x3e)], 24) as usize;
        let mut sections: Vec<Shdr> = headers
            .iter()
            .map(|h| Shdr {
                name: text(&data, names + get32(h, 0)).to_owned(),
                kind: get32(h, 4) as u32,
                flags: get64(h, 8),
                offset: get64(h, 24) as usize,
                size: get64(h, 32) as usize,
                link: get32(h, 40),
                info: get32(h, 44),
                align: get64(h, 48),
                addr: 0,
            })
            .collect();
        let symtab = sections.iter().position(|s| s.kind == 2).unwrap();
        let strtab = sections[symtab].link;
        let (info, vers, pcpu) =
            (find(&sections, ".modinfo"), find(&sections, "__versions"), find(&sections, ".data..percpu"));
        let info_text = &data[sections[info].offset..][..sections[info].size];
        let name = info_text.split(|b| *b == 0).find_map(|l| l.strip_prefix(b"name=")).unwrap();
        let name = std::str::from_utf8(name).unwrap().replace('-', "_");
        for i in [info, vers, pcpu] {
            sections[i].flags &= !ALLOC;
        }
        for n in [".data..ro_after_init", "__jump_table"] {
            let i = find(&sections, n);
            if i != 0 {
                sections[i].flags |= RO_AFTER_INIT;
            }
        }
        let masks: [(u64, u64); 5] =
            [(EXEC | ALLOC, 0), (ALLOC, WRITE), (RO_AFTER_INIT | ALLOC, 0), (WRITE | ALLOC, 0), (ALLOC, 0)];
        // 6.1: core, init. 6.12: text, data, rodata, ro_after_init, init text, init data, init rodata.
        let core_types = [0, 2, 3, 1, 1];
        let init_types = [4, 6, 99, 5, 5];
        let mut sizes = [0u64; 7];
        let mut offsets = vec![None; shnum];
        let (mut text_size, mut init_text_size) = (0, 0);
        for init in [false, true] {
            for m in 0..5 {
                let block = match (flavor.patching, init) {
                    (Patching::V6_1, _) => init as usize,
                    (_, false) => core_types[m],
                    (_, true) => init_types[m],
                };
                for (i, s) in sections.iter().enumerate() {
                    if s.flags & masks[m].0 != masks[m].0
                        || s.flags & masks[m].1 != 0
                        || offsets[i].is_some()
                        || s.name.starts_with(".init") != init
                    {
                        continue;
                    }
                    let align = if s.align == 0 { 1 } else { s.align };
                    let at = (sizes[block] + align - 1) & !(align - 1);
                    sizes[block] = at + s.size as u64;
                    offsets[i] = Some((block, at));
                }
                if m == 0 && block < 7 {
                    *(if init { &mut init_text_size } else { &mut text_size }) = sizes[block];
                }
                if flavor.patching == Patching::V6_1 && m != 3 {
                    sizes[block] = (sizes[block] + 4095) & !4095;
                }
            }
        }
        if flavor.patching == Patching::V6_1 {
            // Symbols of the module's own go behind the data.
            sizes[0] += 8192;
            sizes[1] += 8192;
        }
        // Anywhere in the range, but not in each other's way.
        let mut blocks: Vec<(u64, u64)> = Vec::new();
        while let Some(size) = sizes.get(blocks.len()).map(|s| (s + 4095) & !4095) {
            let base = 0xffff_ffff_c000_0000 + r.below(0x3e000) * 4096;
            if blocks.iter().all(|b| base + size < b.0 || b.0 + b.1 < base) {
                blocks.push((base, size));
            }
        }
        for (s, at) in sections.iter_mut().zip(&offsets) {
            if let Some((block, at)) = at {
                s.addr = blocks[*block].0 + at;
            }
        }
        let init_block = if flavor.patching == Patching::V6_1 { 1 } else { 4 };
        let percpu = 0x2_0000 + r.below(0x1000) * 32;
        Self {
            name,
            data,
            sections,
            symtab,
            strtab,
            percpu,
            pcpu_index: pcpu,
            blocks,
            text_size,
            init_text_size,
            init_block,
        }
    }

    /// Name, section index and value of each symbol.
    pub fn symbols(&self) -> impl Iterator<Item = (&str, usize, u64)> {
        let s = &self.sections[self.symtab];
        let names = self.sections[self.strtab].offset;
        self.data[s.offset..s.offset + s.size]
            .chunks(24)
            .map(move |e| (text(&self.data, names + get32(e, 0)), get16(e, 6), get64(e, 8)))
    }

    pub fn address(&self, section: usize, value: u64) -> u64 {
        let base = if section == self.pcpu_index && section != 0 { self.percpu } else { self.sections[section].addr };
        base + value
    }

    /// `__ksymtab_<name>` marks an export of `<name>`.
    pub fn exports(&self) -> Vec<(String, u64)> {
        let named: HashMap<&str, (usize, u64)> =
            self.symbols().filter(|s| s.1 != 0).map(|(n, s, v)| (n, (s, v))).collect();
        let exported = named.keys().filter_map(|n| n.strip_prefix("__ksymtab_"));
        exported.map(|n| (n.to_owned(), self.address(named[n].0, named[n].1))).collect()
    }

    /// `move_module()`, `simplify_symbols()`, `apply_relocations()`. The kernel lies `slide` above its link address.
    pub fn load(&self, kernel: &Kernel<'_>, slide: u64, exports: &HashMap<String, u64>) -> Memory {
        let export = |name: &str| {
            let address = kernel.symbols.export(name)?;
            Some(if address.var == KERNEL { address.value + slide } else { address.value })
        };
        let mut memory =
            Memory { blocks: self.blocks.iter().map(|(base, size)| (*base, vec![0; *size as usize])).collect() };
        for s in self.sections.iter().filter(|s| s.addr != 0 && s.kind != 8) {
            memory.write(s.addr, &self.data[s.offset..s.offset + s.size]);
        }
        let values: Vec<u64> = self
            .symbols()
            .map(|(name, section, value)| match section {
                0 if name.is_empty() => 0,
                0 => export(name).or_else(|| exports.get(name).copied()).expect(name),
                0xfff1 => value,
                _ => self.address(section, value),
            })
            .collect();
        for rela in self.sections.iter().filter(|s| s.kind == 4) {
            let target = self.sections[rela.info].addr;
            if target == 0 {
                continue;
            }
            for r in self.data[rela.offset..rela.offset + rela.size].chunks(24) {
                let place = target + get64(r, 0);
                let value = values[get32(r, 12)].wrapping_add(get64(r, 16));
                match get32(r, 8) {
                    0 => {}
                    1 => memory.write(place, &value.to_le_bytes()),
                    2 | 4 => memory.write(place, &(value.wrapping_sub(place) as u32).to_le_bytes()),
                    11 => memory.write(place, &(value as u32).to_le_bytes()),
                    24 => memory.write(place, &value.wrapping_sub(place).to_le_bytes()),
                    other => panic!("{}: relocation {other}", self.name),
                }
            }
        }
        memory
    }

    pub fn table(&self, name: &str) -> Range<u64> {
        match self.sections.iter().find(|s| s.name == name && s.addr != 0) {
            Some(s) => s.addr..s.addr + s.size as u64,
            None => 0..0,
        }
    }
}
