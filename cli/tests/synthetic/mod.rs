//! A kernel and modules as the tool reads them, made up: small enough to try thousands of variations
//!
//! The kernel is one of 6.12's kind with one patch site of every kind; the modules are two that need each other.
#![allow(dead_code)]
use std::io::Write;

/// Where the kernel is linked, and loaded.
pub const BASE: u64 = 0xffff_ffff_8100_0000;
pub const PHYSICAL: u64 = 0x100_0000;
pub const RELEASE: &str = "6.12.0-synthetic";

const ALLOC: u64 = 2;
const WRITE: u64 = 1;
const EXEC: u64 = 4;
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

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|p| out.extend_from_slice(p));
}

fn rel(from: u64, to: u64) -> [u8; 4] {
    (to.wrapping_sub(from) as u32).to_le_bytes()
}

/// Bytes written at addresses.
struct Code {
    base: u64,
    bytes: Vec<u8>,
}

impl Code {
    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.bytes[(at - self.base) as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    /// Opcode bytes and a distance behind them.
    fn branch(&mut self, at: u64, opcode: &[u8], to: u64) {
        let distance = rel(at + opcode.len() as u64 + 4, to);
        self.put(at, &[opcode, &distance].concat());
    }
}

/// Addresses in the kernel.
pub mod at {
    use super::BASE;
    pub const FENTRY: u64 = BASE + 0x40;
    pub const FTRACE: u64 = BASE + 0x80;
    pub const FTRACE_REGS: u64 = BASE + 0xc0;
    pub const FTRACE_STUB: u64 = BASE + 0x140;
    pub const RETURN_THUNK: u64 = BASE + 0x180;
    pub const SRSO_THUNK: u64 = BASE + 0x1a0;
    pub const INDIRECT: u64 = BASE + 0x200;
    pub const NATIVE: u64 = BASE + 0x440;
    pub const SEAL: u64 = BASE + 0x480;
    pub const WORK: u64 = BASE + 0x500;
    pub const TRAMPOLINE: u64 = BASE + 0x1100;
    pub const PERCPU: u64 = 0x1_8040;
    pub const RODATA: u64 = BASE + 0x3000;
    pub const REPLACEMENTS: u64 = BASE + 0xa000;
    pub const DATA: u64 = BASE + 0xb000;
    pub const INIT: u64 = BASE + 0xd000;
    pub const TABLES: u64 = BASE + 0xf000;
    pub const BLOB: u64 = BASE + 0x1_1000;
    pub const RELOCS: u64 = BLOB + 0x3040;
}

fn text() -> Code {
    use at::*;
    let mut t = Code { base: BASE, bytes: vec![0x90; 0x2000] };
    t.bytes.iter_mut().enumerate().for_each(|(i, b)| *b = if i % 16 == 15 { 0xc3 } else { 0x90 });
    for caller in [FTRACE, FTRACE_REGS] {
        t.branch(caller, &[0x48, 0x8b, 0x15], DATA + 0x30);
        t.branch(caller + 7, &[0xe8], FTRACE_STUB);
    }
    t.put(FTRACE_REGS + 12, &[0x75, 3]);
    t.put(SEAL, &[0xba, 0x66, 0x0f, 0x1f, 0x00]);
    t.put(WORK, &[0xf3, 0x0f, 0x1e, 0xfa]);
    t.branch(WORK + 4, &[0xe8], FENTRY);
    t.branch(WORK + 0x10, &[0xe9], RETURN_THUNK);
    t.branch(WORK + 0x20, &[0xe8], INDIRECT);
    t.branch(WORK + 0x30, &[0xff, 0x15], DATA + 8);
    t.put(WORK + 0x50, &[0xf0]);
    t.branch(WORK + 0x60, &[0xe8], TRAMPOLINE);
    t.branch(WORK + 0x70, &[0xe9], TRAMPOLINE);
    t.put(WORK + 0x80, &[0x66, 0x90]);
    t.put(WORK + 0x90, &[0x0f, 0x1f, 0x44, 0, 0]);
    t.put(WORK + 0xa0, &[0x48, 0xb8, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01]);
    t.put(WORK + 0xb0, &[0xc1, 0xe8, 12]);
    // Addresses of data and distances to a per-CPU variable, each once in code that is patched.
    for at in [WORK + 0xc0, WORK + 0xe0] {
        t.put(at, &[&[0x48, 0xc7, 0xc0][..], &(DATA as u32).to_le_bytes()].concat());
    }
    for at in [WORK + 0xd0, WORK + 0xf0] {
        t.branch(at, &[0x65, 0x48, 0x8b, 0x05], PERCPU);
    }
    t.put(BASE + 0xffd, &[0x0f, 0x1f, 0x44, 0, 0]);
    t.branch(TRAMPOLINE, &[0xe9], WORK);
    t.put(TRAMPOLINE + 5, &[0x0f, 0xb9, 0xcc]);
    t
}

/// Names of the kernel's symbols, with their types and addresses.
fn symbols(tables: &[(&str, u64, u64)]) -> Vec<(u64, char, String)> {
    use at::*;
    let mut all: Vec<(u64, char, String)> = [
        (0, 'A', "__per_cpu_start"),
        (BASE, 'T', "_text"),
        (FENTRY, 'T', "__fentry__"),
        (FTRACE, 'T', "ftrace_caller"),
        (FTRACE, 'T', "ftrace_caller_op_ptr"),
        (FTRACE + 7, 'T', "ftrace_call"),
        (FTRACE + 15, 'T', "ftrace_caller_end"),
        (FTRACE_REGS, 'T', "ftrace_regs_caller"),
        (FTRACE_REGS, 'T', "ftrace_regs_caller_op_ptr"),
        (FTRACE_REGS + 7, 'T', "ftrace_regs_call"),
        (FTRACE_REGS + 12, 'T', "ftrace_regs_caller_jmp"),
        (FTRACE_REGS + 15, 'T', "ftrace_regs_caller_end"),
        (FTRACE_STUB, 'T', "ftrace_stub"),
        (RETURN_THUNK, 'T', "__x86_return_thunk"),
        (SRSO_THUNK, 'T', "srso_return_thunk"),
        (INDIRECT, 'T', "__x86_indirect_thunk_array"),
        (BASE + 0x400, 'T', "nop_func"),
        (BASE + 0x420, 'T', "BUG_func"),
        (NATIVE, 'T', "native_func"),
        (BASE + 0x460, 't', "__apply_relocation"),
        (SEAL, 't', "apply_seal_endbr"),
        (SEAL + 0x20, 'T', "apply_retpolines"),
        (WORK, 'T', "work"),
        (TRAMPOLINE, 'T', "__static_call_text_start"),
        (TRAMPOLINE, 'T', "__SCT__work"),
        (TRAMPOLINE + 8, 'T', "__static_call_text_end"),
        (BASE + 0x2000, 'T', "_etext"),
        (RODATA, 'r', "x86nops"),
        (RODATA + 0x50, 'r', "xor5rax"),
        (RODATA + 0x55, 'r', "warninsn"),
        (RODATA + 0x80, 'r', "after_nops"),
        (DATA, 'D', "pv_ops"),
        (DATA + 0x20, 'D', "after_pv_ops"),
        (DATA + 0x40, 'd', "global_ops"),
        (DATA + 0x48, 'd', "trace_ops"),
        (DATA + 0x50, 'd', "trace_ops"),
        (INIT + 0x10, 't', "start_kernel"),
        (BLOB, 'D', "real_mode_blob"),
        (RELOCS, 'D', "real_mode_blob_end"),
        (RELOCS, 'D', "real_mode_relocs"),
    ]
    .map(|(a, k, n)| (a, k, n.to_owned()))
    .to_vec();
    for (name, start, end) in tables {
        let brackets = match *name {
            "static_calls" => ("__start_static_call_sites", "__stop_static_call_sites"),
            "jumps" => ("__start___jump_table", "__stop___jump_table"),
            "mcount" => ("__start_mcount_loc", "__stop_mcount_loc"),
            _ => continue,
        };
        all.extend([(*start, 'D', brackets.0.to_owned()), (*end, 'D', brackets.1.to_owned())]);
    }
    all.sort();
    all
}

/// The AP trampoline, code on two pages, and its relocations.
pub fn real_mode() -> Vec<u8> {
    let mut blob = vec![0; (at::RELOCS - at::BLOB) as usize];
    blob[0x1000..0x20f4].iter_mut().enumerate().for_each(|(i, b)| *b = (i % 251) as u8);
    blob[0x1006..0x1008].fill(0);
    let words: [(usize, u32); 6] =
        [(0, 0x1000), (4, 0x20f4), (8, 0x1000), (0x20, 0x9b00_0000), (0x1038, 0x1ff0), (0x2041, 0x3008)];
    words.iter().for_each(|(at, word)| blob[*at..at + 4].copy_from_slice(&word.to_le_bytes()));
    let relocs: [u32; 9] = [1, 0x1006, 6, 0, 4, 8, 0x20, 0x1038, 0x2041];
    blob.extend(relocs.iter().flat_map(|w| w.to_le_bytes()));
    blob
}

/// kallsyms in 6.12's layout; every token is a letter.
pub fn kallsyms(symbols: &[(u64, char, String)]) -> Vec<u8> {
    let pad = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(8), 0);
    let mut out = (symbols.len() as u64).to_le_bytes().to_vec();
    let (mut names, mut markers) = (Vec::new(), Vec::new());
    for (i, (_, kind, name)) in symbols.iter().enumerate() {
        if i % 256 == 0 {
            markers.extend((names.len() as u32).to_le_bytes());
        }
        names.push(name.len() as u8 + 1);
        names.push(*kind as u8);
        names.extend(name.bytes());
    }
    out.extend(names);
    pad(&mut out);
    out.extend(markers);
    pad(&mut out);
    let (start, mut index) = (out.len(), Vec::new());
    for token in 0..=255u8 {
        index.extend(((out.len() - start) as u16).to_le_bytes());
        out.extend([if token.is_ascii_graphic() { token } else { b'x' }, 0]);
    }
    pad(&mut out);
    out.extend(index);
    pad(&mut out);
    for (address, ..) in symbols {
        let offset = if *address < BASE { *address as i64 } else { -1 - (address.wrapping_sub(BASE) as i64) };
        out.extend((offset as i32).to_le_bytes());
    }
    pad(&mut out);
    out.extend(BASE.to_le_bytes());
    out
}

const NOPS: &[&[u8]] = &[
    &[0x90],
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// The linked kernel, with its relocation table behind it.
pub fn vmlinux() -> Vec<u8> {
    use at::*;
    let mut next = TABLES;
    let mut tables: Vec<(&str, u64, Vec<u8>)> = Vec::new();
    let mut table = |name: &'static str, make: &dyn Fn(u64) -> Vec<u8>| {
        let bytes = make(next);
        tables.push((name, next, bytes.clone()));
        next = (next + bytes.len() as u64).next_multiple_of(64);
    };
    let relative = |targets: Vec<u64>| {
        move |start: u64| -> Vec<u8> {
            targets.iter().enumerate().flat_map(|(i, t)| rel(start + 4 * i as u64, *t)).collect()
        }
    };
    table(".return_sites", &relative(vec![WORK + 0x10]));
    table(".retpoline_sites", &relative(vec![WORK + 0x20]));
    table(".call_sites", &relative(vec![WORK + 4]));
    table(".smp_locks", &relative(vec![WORK + 0x50]));
    table(".ibt_endbr_seal", &relative(vec![WORK]));
    table("runtime_ptr_dentry_hashtable", &relative(vec![WORK + 0xa2]));
    table("runtime_shift_d_hash_shift", &relative(vec![WORK + 0xb2]));
    table(".altinstructions", &|start| {
        let entry = |i: u64, site: u64, replacement: u64, feature: u16, flags: u16, lens: [u8; 2]| {
            let at = start + 14 * i;
            let offsets = [rel(at, site), rel(at + 4, replacement)].concat();
            [&offsets[..], &feature.to_le_bytes(), &flags.to_le_bytes(), &lens].concat()
        };
        let always = 3 * 32 + 21;
        [
            entry(0, WORK + 0x30, REPLACEMENTS, always, 2, [6, 5]),
            entry(1, WORK + 0x30, REPLACEMENTS + 8, 8 * 32 + 16, 1, [6, 1]),
            entry(2, WORK + 0x40, REPLACEMENTS + 16, 9 * 32 + 20, 0, [3, 3]),
            entry(3, WORK + 0xe0, REPLACEMENTS + 24, 16 * 32 + 16, 0, [7, 7]),
            entry(4, WORK + 0xf0, REPLACEMENTS + 32, 16 * 32 + 16, 0, [8, 8]),
        ]
        .concat()
    });
    table("static_calls", &|start| {
        let entry = |i: u64, site, tail: u64| [rel(start + 8 * i, site), rel(start + 8 * i + 4, DATA + tail)].concat();
        [entry(0, WORK + 0x60, 0), entry(1, WORK + 0x70, 1)].concat()
    });
    table("jumps", &|start| {
        let entry = |i: u64, site, target| {
            let at = start + 16 * i;
            [&rel(at, site)[..], &rel(at + 4, target), &DATA.wrapping_sub(at + 8).to_le_bytes()].concat()
        };
        [
            entry(0, WORK + 0x80, WORK + 0x92),
            entry(1, WORK + 0x90, BASE + 0x1f00),
            entry(2, BASE + 0xffd, BASE + 0x1f10),
        ]
        .concat()
    });
    table("mcount", &|_| [(WORK + 4).to_le_bytes(), 0u64.to_le_bytes()].concat());
    let exports = |names: &[(&'static str, u64)], strings: u64, all: &[(&'static str, u64)]| {
        let name_at =
            |n: &str| strings + all.iter().take_while(|e| e.0 != n).map(|e| e.0.len() as u64 + 1).sum::<u64>();
        let names: Vec<(u64, u64)> = names.iter().map(|(n, at)| (*at, name_at(n))).collect();
        move |start: u64| -> Vec<u8> {
            let entry = |(i, (value, name)): (usize, &(u64, u64))| {
                let at = start + 12 * i as u64;
                [rel(at, *value), rel(at + 4, *name), [0; 4]].concat()
            };
            names.iter().enumerate().flat_map(entry).collect()
        }
    };
    let all = [
        ("work", WORK),
        ("__fentry__", FENTRY),
        ("__x86_return_thunk", RETURN_THUNK),
        ("__SCT__work", TRAMPOLINE),
        ("native_func", NATIVE),
    ];
    let names: Vec<u8> = all.iter().flat_map(|e| e.0.bytes().chain([0])).collect();
    let place = std::cell::Cell::new(0);
    table("__ksymtab_strings", &|start| {
        place.set(start);
        names.clone()
    });
    let strings = place.get();
    table("__ksymtab", &exports(&all[..4], strings, &all));
    table("__ksymtab_gpl", &exports(&all[4..], strings, &all));

    let brackets: Vec<_> = tables.iter().map(|(n, at, b)| (*n, *at, at + b.len() as u64)).collect();
    let mut rodata = NOPS.concat();
    rodata.resize(0x50, 0);
    rodata.extend([0x2e, 0x2e, 0x2e, 0x31, 0xc0, 0x67, 0x48, 0x0f, 0xb9, 0x3a]);
    rodata.resize(0x80, 0);
    rodata.extend(kallsyms(&symbols(&brackets)));
    let mut replacements = Code { base: REPLACEMENTS, bytes: vec![0x90; 48] };
    replacements.branch(REPLACEMENTS, &[0xe8], BASE + 0x420);
    replacements.put(REPLACEMENTS + 8, &[0xfb]);
    replacements.put(REPLACEMENTS + 16, &[0x0f, 0x01, 0xca]);
    replacements.put(REPLACEMENTS + 24, &[&[0x48, 0xc7, 0xc0][..], &(NATIVE as u32).to_le_bytes()].concat());
    replacements.branch(REPLACEMENTS + 32, &[0x65, 0x48, 0x8b, 0x0d], PERCPU);
    let pv: Vec<u8> = [BASE + 0x400, NATIVE, 0, WORK].iter().flat_map(|v| v.to_le_bytes()).collect();
    let placed = |name: &str, flags, address, bytes: Vec<u8>| Section { address, ..Section::new(name, flags, bytes) };
    let mut sections = vec![
        placed(".text", ALLOC | EXEC, BASE, text().bytes),
        placed(".rodata", ALLOC, RODATA, rodata),
        placed(".altinstr_replacement", ALLOC | EXEC, REPLACEMENTS, replacements.bytes),
        placed(".data", ALLOC | WRITE, DATA, [pv, vec![1; 64]].concat()),
        placed(".init.text", ALLOC | EXEC, INIT, vec![0x90; 0x1100]),
        placed(".altinstr_aux", ALLOC | EXEC, INIT + 0x1100, vec![0x90; 0x80]),
    ];
    assert!(next <= BLOB);
    let mcount = tables.iter().find(|t| t.0 == "mcount").map(|t| t.1).unwrap();
    sections.extend(tables.into_iter().map(|(name, at, bytes)| placed(name, ALLOC, at, bytes)));
    sections.push(placed(".init.data", ALLOC | WRITE, BLOB, real_mode()));
    let mut file = elf(2, PHYSICAL + 0x10, Some(PHYSICAL), sections);
    let abs64 = [DATA, DATA + 8, DATA + 0x18, mcount, mcount + 8];
    let inverse32 = [WORK + 0xd4, WORK + 0xf4, REPLACEMENTS + 36];
    let abs32 = [WORK + 0xc3, WORK + 0xe3, REPLACEMENTS + 27];
    let relocs = [&[0][..], &abs64, &[0], &inverse32, &[0], &abs32].concat();
    relocs.iter().for_each(|r| file.extend((*r as i32).to_le_bytes()));
    file
}

/// How a kernel is packed.
#[derive(Clone, Copy, Debug)]
pub enum Packing {
    Zstd,
    Gzip,
    Xz,
    Lz4,
}

/// All of them.
pub const PACKINGS: [Packing; 4] = [Packing::Zstd, Packing::Gzip, Packing::Xz, Packing::Lz4];

pub fn pack(bytes: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Zstd => zstd::encode_all(bytes, 3).unwrap(),
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Lz4 => {
            // Literals only.
            let mut block = vec![0xf0];
            let mut left = bytes.len() - 15;
            while left >= 255 {
                block.push(255);
                left -= 255;
            }
            block.push(left as u8);
            block.extend(bytes);
            [&[0x02, 0x21, 0x4c, 0x18], &(block.len() as u32).to_le_bytes()[..], &block].concat()
        }
    }
}

/// The kernel as a boot loader gets it.
pub fn bzimage(vmlinux: &[u8], packing: Packing) -> Vec<u8> {
    let mut payload = pack(vmlinux, packing);
    // gzip ends with it anyway.
    if !matches!(packing, Packing::Gzip) {
        payload.extend((vmlinux.len() as u32).to_le_bytes());
    }
    let mut file = vec![0; 2048];
    file[0x1f1] = 3;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    file[0x20e..0x210].copy_from_slice(&0x300u16.to_le_bytes());
    let version = format!("{RELEASE} (somebody@somewhere) #1\0");
    file[0x500..0x500 + version.len()].copy_from_slice(version.as_bytes());
    (file[0x211], file[0x234], file[0x236]) = (1, 1, 1);
    file[0x230..0x234].copy_from_slice(&0x20_0000u32.to_le_bytes());
    file[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file[0x258..0x260].copy_from_slice(&PHYSICAL.to_le_bytes());
    file[0x260..0x264].copy_from_slice(&0x2_0000u32.to_le_bytes());
    file.extend(payload);
    file
}

/// A kernel that is approved.
pub fn kernel() -> Vec<u8> {
    bzimage(&vmlinux(), Packing::Zstd)
}

/// Relocation types.
const ABS64: u32 = 1;
const PC32: u32 = 2;
const PLT32: u32 = 4;
const ABS32: u32 = 11;

/// A module in the making.
struct Ko {
    sections: Vec<Section>,
    symbols: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
    relocations: Vec<(usize, Vec<u8>)>,
}

impl Ko {
    fn new(name: &str, release: &str) -> Self {
        let info = format!("license=GPL\0name={name}\0vermagic={release} SMP preempt mod_unload \0");
        let this = Section::new(".gnu.linkonce.this_module", ALLOC | WRITE, vec![0; 64]);
        let sections = vec![Section::new(".modinfo", ALLOC, info.into_bytes()), this];
        Self { sections, symbols: vec![0; 24], strings: vec![0], count: 1, relocations: Vec::new() }
    }

    fn section(&mut self, name: &str, flags: u64, bytes: Vec<u8>) -> usize {
        self.sections.push(Section::new(name, flags, bytes));
        self.sections.len() - 1
    }

    /// A symbol in a section, or an undefined one.
    fn symbol(&mut self, name: &str, section: Option<usize>, value: u64, function: bool) -> u32 {
        let at = self.strings.len() as u32;
        self.strings.extend(name.bytes().chain([0]));
        let index = section.map_or(0, |s| s as u16 + 1);
        let info = 0x10 | if function { 2 } else { 0 };
        put(&mut self.symbols, &[&at.to_le_bytes(), &[info, 0], &index.to_le_bytes(), &value.to_le_bytes(), &[0; 8]]);
        self.count += 1;
        self.count - 1
    }

    fn relocate(&mut self, section: usize, offset: u64, kind: u32, symbol: u32, addend: i64) {
        let info = (symbol as u64) << 32 | kind as u64;
        let entry = [offset.to_le_bytes(), info.to_le_bytes(), (addend as u64).to_le_bytes()].concat();
        match self.relocations.iter_mut().find(|r| r.0 == section) {
            Some(list) => list.1.extend(entry),
            None => self.relocations.push((section, entry)),
        }
    }

    fn file(mut self) -> Vec<u8> {
        let symtab = self.sections.len() as u32 + self.relocations.len() as u32 + 1;
        for (section, bytes) in self.relocations {
            let name = format!(".rela{}", self.sections[section].name);
            let head =
                Section { kind: 4, link: symtab, info: section as u32 + 1, entry: 24, ..Section::new(&name, 0, bytes) };
            self.sections.push(head);
        }
        let table = Section { kind: 2, link: symtab + 1, entry: 24, ..Section::new(".symtab", 0, self.symbols) };
        self.sections.push(table);
        self.sections.push(Section { kind: 3, ..Section::new(".strtab", 0, self.strings) });
        elf(1, 0, None, self.sections)
    }
}

/// A module that exports `helper`.
pub fn helper(release: &str) -> Vec<u8> {
    let mut ko = Ko::new("helper", release);
    let mut code = vec![0x90; 0x40];
    code[0x10] = 0xe9;
    code[0x11..0x15].fill(0);
    let text = ko.section(".text", ALLOC | EXEC, code);
    let helper = ko.symbol("helper", Some(text), 0, true);
    let thunk = ko.symbol("__x86_return_thunk", None, 0, false);
    ko.relocate(text, 0x11, PLT32, thunk, -4);
    let returns = ko.section(".return_sites", ALLOC, vec![0; 4]);
    let own = ko.symbol("", Some(text), 0, false);
    ko.relocate(returns, 0, PC32, own, 0x10);
    let strings = ko.section("__ksymtab_strings", ALLOC, b"helper\0".to_vec());
    let name = ko.symbol("__kstrtab_helper", Some(strings), 0, false);
    let table = ko.section("__ksymtab", ALLOC, vec![0; 12]);
    ko.relocate(table, 0, PC32, helper, 0);
    ko.relocate(table, 4, PC32, name, 0);
    ko.file()
}

/// A module that uses `helper` and has most kinds of sites.
pub fn driver(release: &str) -> Vec<u8> {
    let mut ko = Ko::new("driver", release);
    let mut code = vec![0x90; 0x120];
    let mut put = |at: usize, bytes: &[u8]| code[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xf3, 0x0f, 0x1e, 0xfa, 0xe8, 0, 0, 0, 0]);
    put(0x10, &[0xe8, 0, 0, 0, 0]);
    put(0x20, &[0xe8, 0, 0, 0, 0]);
    put(0x30, &[0xe9, 0, 0, 0, 0]);
    put(0x40, &[0x0f, 0x1f, 0x44, 0, 0]);
    put(0x50, &[0x90, 0x90, 0x90]);
    put(0x60, &[0x48, 0x8b, 0x05, 0, 0, 0, 0]);
    put(0x70, &[0x48, 0xc7, 0xc0, 0, 0, 0, 0]);
    put(0x80, &[0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0]);
    put(0x90, &[0xf0]);
    put(0xa0, &[0xe8, 0, 0, 0, 0]);
    put(0xb0, &[0x0f, 0x01, 0xca]);
    let text = ko.section(".text", ALLOC | EXEC, code);
    let init =
        ko.section(".init.text", ALLOC | EXEC, [vec![0x90; 16], vec![0xe8, 0, 0, 0, 0], vec![0xc3; 11]].concat());
    let data = ko.section(".data", ALLOC | WRITE, vec![7; 0x80]);
    let rodata = ko.section(".rodata", ALLOC, vec![9; 0x40]);
    let percpu = ko.section(".data..percpu", ALLOC | WRITE, vec![0; 16]);
    let undefined = ["__fentry__", "work", "helper", "__x86_return_thunk", "__SCT__work"];
    // Only exports can be used: the tool resolves them, and these are.
    let [fentry, work, helper, thunk, trampoline] = undefined.map(|n| ko.symbol(n, None, 0, false));
    let [in_text, in_init, in_data, in_rodata, in_percpu] =
        [text, init, data, rodata, percpu].map(|s| ko.symbol("", Some(s), 0, false));
    ko.symbol("driver_function", Some(text), 0, true);
    ko.relocate(text, 5, PLT32, fentry, -4);
    ko.relocate(text, 0x11, PLT32, work, -4);
    ko.relocate(text, 0x21, PLT32, helper, -4);
    ko.relocate(text, 0x31, PLT32, thunk, -4);
    ko.relocate(text, 0x63, PC32, in_data, 0x10 - 4);
    ko.relocate(text, 0x73, ABS32, in_rodata, 8);
    ko.relocate(text, 0x82, ABS64, in_data, 0x20);
    ko.relocate(text, 0xa1, PLT32, trampoline, -4);
    ko.relocate(text, 0xc3, ABS32, in_percpu, 0);
    ko.sections[text].bytes[0xc0..0xc7].copy_from_slice(&[0x48, 0xc7, 0xc0, 0, 0, 0, 0]);
    ko.relocate(init, 0x11, PLT32, in_text, -4);
    let list = |ko: &mut Ko, name: &str, sites: &[(u32, i64)]| {
        let table = ko.section(name, ALLOC, vec![0; 4 * sites.len()]);
        for (i, (symbol, at)) in sites.iter().enumerate() {
            ko.relocate(table, 4 * i as u64, PC32, *symbol, *at);
        }
    };
    list(&mut ko, ".return_sites", &[(in_text, 0x30)]);
    list(&mut ko, ".smp_locks", &[(in_text, 0x90)]);
    list(&mut ko, ".ibt_endbr_seal", &[(in_text, 0)]);
    let mcount = ko.section("__mcount_loc", ALLOC | WRITE, vec![0; 8]);
    ko.relocate(mcount, 0, ABS64, in_text, 4);
    let jumps = ko.section("__jump_table", ALLOC | WRITE, vec![0; 16]);
    ko.relocate(jumps, 0, PC32, in_text, 0x40);
    ko.relocate(jumps, 4, PC32, in_text, 0x60);
    ko.relocate(jumps, 8, 24, in_data, 0);
    let calls = ko.section(".static_call_sites", ALLOC | WRITE, vec![0; 8]);
    ko.relocate(calls, 0, PC32, in_text, 0xa0);
    ko.relocate(calls, 4, PC32, in_data, 0);
    let mut entry = vec![0; 14];
    entry[8..].copy_from_slice(&[0x34, 0x01, 0, 0, 3, 3]);
    let alternatives = ko.section(".altinstructions", ALLOC, entry);
    ko.relocate(alternatives, 0, PC32, in_text, 0x50);
    ko.relocate(alternatives, 4, PC32, in_text, 0xb0);
    let _ = in_init;
    ko.file()
}
