//! The linked kernel: code with a patch site of every kind, the tables that list them, and its relocations
use super::elf::{ALLOC, EXEC, Section, WRITE, elf};
use super::{BASE, PHYSICAL};

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
