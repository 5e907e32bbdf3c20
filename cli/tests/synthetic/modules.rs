//! Two modules: one exports what the other uses
use super::elf::{ALLOC, EXEC, Section, WRITE, elf, put};

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
    let [in_text, _, in_data, in_rodata, in_percpu] =
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
    ko.file()
}
