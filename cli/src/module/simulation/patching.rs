//! Patches a loaded module as `alternative.c` does, and changes its jump labels and static calls as Linux may later
use std::collections::BTreeMap;
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions};
use secvisor_approval::wire::{SiteKind, cond};

use super::loader::Loaded;
use super::machine::{Indirect, Machine, Returns};
use super::{Memory, Random, get16, get32};
use crate::flavor::{Padding, Patching};
use crate::kernel::Kernel;

/// The memory of a module that is being patched, the kernel that does it, and its CPU.
pub struct Patched<'a> {
    pub memory: Memory,
    pub kernel: &'a Kernel<'a>,
    /// How far the kernel lies above its link address.
    pub slide: u64,
    pub machine: &'a Machine,
}

pub fn nop(len: usize) -> &'static [u8] {
    const TABLE: [&[u8]; 12] = [
        b"",
        b"\x90",
        b"\x66\x90",
        b"\x0f\x1f\x00",
        b"\x0f\x1f\x40\x00",
        b"\x0f\x1f\x44\x00\x00",
        b"\x66\x0f\x1f\x44\x00\x00",
        b"\x0f\x1f\x80\x00\x00\x00\x00",
        b"\x0f\x1f\x84\x00\x00\x00\x00\x00",
        b"\x2e\x0f\x1f\x84\x00\x00\x00\x00\x00",
        b"\x66\x2e\x0f\x1f\x84\x00\x00\x00\x00\x00",
        b"\x66\x66\x2e\x0f\x1f\x84\x00\x00\x00\x00\x00",
    ];
    TABLE[len]
}

/// Length of the instruction, and whether it is one of the NOPs 6.12 merges.
fn insn(bytes: &[u8]) -> (usize, bool) {
    let mut d = Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE);
    let i = d.decode();
    assert!(!i.is_invalid(), "{bytes:02x?}");
    let op = bytes.iter().position(|b| !matches!(b, 0x66 | 0x67 | 0x2e | 0x3e | 0xf2 | 0xf3 | 0x40..=0x4f)).unwrap();
    let is_nop = (bytes[op] == 0x90 && (op == 0 || bytes[0] != 0xf3)) || bytes[op..].starts_with(&[0x0f, 0x1f]);
    (i.len(), is_nop)
}

/// `optimize_nops()` of 6.1.
fn optimize_6_1(code: &mut [u8]) {
    let mut i = 0;
    while i < code.len() {
        let (len, _) = insn(&code[i..]);
        if code[i] != 0x90 {
            i += len;
            continue;
        }
        let mut end = i;
        while end < code.len() && code[end] == 0x90 {
            end += 1;
        }
        while end - i > 1 {
            let n = (end - i).min(8);
            code[i..i + n].copy_from_slice(nop(n));
            i += n;
        }
        i = end;
    }
}

/// `optimize_nops()` of 6.12.
fn optimize_6_12(code: &mut [u8]) {
    let total = code.len();
    let mut i = 0;
    while i < total {
        let (len, is_nop) = insn(&code[i..]);
        let mut next = i + len;
        if is_nop {
            if next == total {
                return;
            }
            while next < total {
                let (len, more) = insn(&code[next..]);
                if !more {
                    break;
                }
                next += len;
            }
            let run = next - i;
            if run <= 11 {
                code[i..next].copy_from_slice(nop(run));
            } else {
                assert!(run < 128);
                code[i..next].fill(0xcc);
                code[i] = 0xeb;
                code[i + 1] = (run - 2) as u8;
            }
        }
        i = next;
    }
}

impl Patched<'_> {
    fn symbol(&self, name: &str) -> u64 {
        self.kernel.symbols.get(name).unwrap_or_else(|| panic!("no {name}")) + self.slide
    }

    /// `boot_cpu_has()` as `apply_alternatives()` asks it.
    fn wanted(&self, feature: u16, not: bool) -> bool {
        self.machine.has(feature) != not
    }

    /// What a pointer in the kernel's data holds.
    fn kernel_pointer(&self, at: u64) -> u64 {
        match self.kernel.image.u64(at - self.slide).unwrap() {
            0 => 0,
            function => function + self.slide,
        }
    }

    pub fn branch(op: u8, at: u64, to: u64) -> [u8; 5] {
        let [a, b, c, d] = (to.wrapping_sub(at + 5) as u32).to_le_bytes();
        [op, a, b, c, d]
    }

    fn paravirt(&mut self, table: Range<u64>) {
        for entry in table.step_by(16) {
            let site = self.memory.u64(entry);
            let (kind, len) = (self.memory.at(entry + 8, 1)[0], self.memory.at(entry + 9, 1)[0] as usize);
            let target = self.kernel_pointer(self.symbol("pv_ops") + 8 * kind as u64);
            let mut code = Vec::new();
            if target == 0 {
                code.extend(Self::branch(0xe8, site, self.symbol("paravirt_BUG")));
            } else if target != self.symbol("_paravirt_nop") {
                code.extend(Self::branch(0xe8, site, target));
            }
            code.extend(nop(len - code.len()));
            self.memory.write(site, &code);
        }
    }

    fn retpolines(&mut self, table: Range<u64>) {
        assert_eq!(self.kernel.flavor.padding, Padding::Nops, "no kernel that pads with prefixes is simulated");
        if self.machine.indirect == Indirect::Retpoline {
            return;
        }
        for entry in table.step_by(4) {
            let site = self.memory.pointed(entry);
            let cs = (self.memory.at(site, 1)[0] == 0x2e) as u64;
            let op = self.memory.at(site + cs, 1)[0];
            let target = self.memory.pointed(site + cs + 1) + 4;
            let reg = ((target - self.symbol("__x86_indirect_thunk_array")) / 32) as u8;
            assert!(reg < 16 && reg != 4);
            let mut code = Vec::new();
            if self.machine.indirect == Indirect::Lfence {
                code.extend([0x0f, 0xae, 0xe8]);
            }
            if reg >= 8 {
                code.push(0x41);
            }
            code.extend([0xff, (if op == 0xe8 { 0xd0 } else { 0xe0 }) + reg % 8]);
            let len = 5 + cs as usize;
            if op == 0xe9 && code.len() < len {
                code.push(0xcc);
            }
            while code.len() < len {
                code.push(0x90);
            }
            if code.len() != len {
                continue;
            }
            match self.kernel.flavor.patching {
                Patching::V6_1 => optimize_6_1(&mut code),
                Patching::V6_12 => optimize_6_12(&mut code),
                Patching::V6_8 => unimplemented!("no module of 6.8 is simulated"),
            }
            self.memory.write(site, &code);
        }
    }

    /// The function static calls are changed to.
    pub fn function(&self) -> u64 {
        self.symbol("__static_call_return0")
    }

    /// What a return becomes.
    pub fn return_form(&self, site: u64) -> Vec<u8> {
        match self.machine.returns {
            Returns::Thunk(c, name) if c != cond::RETURN_ITS || site & 0x20 == 0 => {
                Self::branch(0xe9, site, self.symbol(name)).to_vec()
            }
            _ => vec![0xc3, 0xcc, 0xcc, 0xcc, 0xcc],
        }
    }

    fn returns(&mut self, table: Range<u64>) {
        for entry in table.step_by(4) {
            let site = self.memory.pointed(entry);
            assert_eq!(self.memory.at(site, 1)[0], 0xe9);
            assert_eq!(self.memory.pointed(site + 1) + 4, self.symbol("__x86_return_thunk"));
            let code = self.return_form(site);
            self.memory.write(site, &code);
        }
    }

    fn alternatives_6_1(&mut self, table: Range<u64>) {
        for entry in table.step_by(12) {
            let (site, repl) = (self.memory.pointed(entry), self.memory.pointed(entry + 4));
            let raw = self.memory.at(entry + 8, 4).to_vec();
            let cpuid = get16(&raw, 0) as u16;
            let (len, repl_len) = (raw[2] as usize, raw[3] as usize);
            if self.wanted(cpuid & 0x7fff, cpuid & 0x8000 != 0) {
                let mut code = self.memory.at(repl, repl_len).to_vec();
                if repl_len == 5 && code[0] == 0xe8 {
                    let rel = (get32(&code, 1) as u32).wrapping_add(repl.wrapping_sub(site) as u32);
                    code[1..].copy_from_slice(&rel.to_le_bytes());
                } else if repl_len == 5 && matches!(code[0], 0xe9 | 0xeb) {
                    let target = repl.wrapping_add(5).wrapping_add(get32(&code, 1) as u32 as i32 as u64);
                    let n = target.wrapping_sub(site) as i64;
                    if n >= 0 && n - 2 <= 127 {
                        code = [&[0xeb, (n - 2) as u8][..], nop(3)].concat();
                    } else {
                        code = Self::branch(0xe9, site, target).to_vec();
                    }
                }
                code.resize(len, 0x90);
                self.memory.write(site, &code);
            }
            optimize_6_1(self.memory.at(site, len));
        }
    }

    fn alternatives_6_12(&mut self, table: Range<u64>) {
        let entries: Vec<u64> = table.step_by(14).collect();
        let sites: Vec<u64> = entries.iter().map(|e| self.memory.pointed(*e)).collect();
        let mut lens: Vec<u8> = entries.iter().map(|e| self.memory.at(e + 12, 1)[0]).collect();
        for (i, entry) in entries.iter().enumerate() {
            let mut j = i + 1;
            while j < entries.len() && sites[j] == sites[i] {
                let len = lens[i].max(lens[j]);
                lens[i] = len;
                lens[j] = len;
                j += 1;
            }
            let (site, len) = (sites[i], lens[i] as usize);
            let repl = self.memory.pointed(entry + 4);
            let raw = self.memory.at(entry + 8, 6).to_vec();
            let (feature, flags, repl_len) = (get16(&raw, 0) as u16, get16(&raw, 2), raw[5] as usize);
            if !self.wanted(feature, flags & 1 != 0) {
                optimize_6_12(self.memory.at(site, len));
                continue;
            }
            let mut code = self.memory.at(repl, repl_len).to_vec();
            if flags & 2 != 0 {
                let link = self.memory.at(site, 6).to_vec();
                assert_eq!(link[..2], [0xff, 0x15]);
                let slot = (site + 6).wrapping_add(get32(&link, 2) as u32 as i32 as u64);
                let bug = self.symbol("BUG_func");
                let mut target = self.kernel_pointer(slot);
                if target == 0 {
                    target = bug;
                }
                let rel = (get32(&code, 1) as u32).wrapping_add(target.wrapping_sub(bug) as u32);
                code[1..5].copy_from_slice(&rel.to_le_bytes());
                if target == self.symbol("nop_func") {
                    code.clear();
                }
            }
            code.resize(len, 0x90);
            let moved = repl.wrapping_sub(site);
            let mut at = 0;
            while at < len {
                let mut d = Decoder::with_ip(64, &code[at..], 0, DecoderOptions::NONE);
                let i = d.decode();
                let c = d.get_constant_offsets(&i);
                let next = at + i.len();
                let op = code[at..].iter().position(|b| !matches!(b, 0x2e | 0x3e | 0x66 | 0xf2 | 0xf3)).unwrap();
                let (op, second) = (code[at + op], code.get(at + op + 1).copied().unwrap_or(0));
                let relative = matches!(op, 0xe8 | 0xe9 | 0xeb | 0x70..=0x7f) || op == 0x0f && second >> 4 == 8;
                let field = if relative {
                    Some((at + c.immediate_offset(), c.immediate_size()))
                } else if i.is_ip_rel_memory_operand() {
                    Some((at + c.displacement_offset(), c.displacement_size()))
                } else {
                    None
                };
                if let Some((pos, width)) = field {
                    let v = if width == 1 { code[pos] as i8 as i64 } else { get32(&code, pos) as u32 as i32 as i64 };
                    let target = next as i64 + v;
                    if target < 0 || target > repl_len as i64 {
                        assert_eq!(width, 4, "a short branch would have to reach far");
                        let v = (v as u32).wrapping_add(moved as u32);
                        code[pos..pos + 4].copy_from_slice(&v.to_le_bytes());
                    }
                    if op == 0xe9 {
                        let imm = (v as i32).wrapping_add(moved as u32 as i32).wrapping_add(3);
                        if i8::try_from(imm).is_ok() {
                            code[at..next].fill(0xcc);
                            code[at] = 0xeb;
                            code[at + 1] = imm as u8;
                        }
                    }
                }
                at = next;
            }
            optimize_6_12(&mut code);
            self.memory.write(site, &code);
        }
    }

    /// `module_finalize()` and `ftrace_module_init()`.
    pub fn finalize(&mut self, m: &Loaded) {
        let flavor = self.kernel.flavor;
        if flavor.patching == Patching::V6_1 {
            self.paravirt(m.table(".parainstructions"));
        }
        self.retpolines(m.table(".retpoline_sites"));
        self.returns(m.table(".return_sites"));
        match flavor.patching {
            Patching::V6_1 => self.alternatives_6_1(m.table(".altinstructions")),
            Patching::V6_12 => self.alternatives_6_12(m.table(".altinstructions")),
            Patching::V6_8 => unimplemented!("no module of 6.8 is simulated"),
        }
        for entry in m.table(".ibt_endbr_seal").step_by(4) {
            let at = self.memory.pointed(entry);
            assert_eq!(self.memory.at(at, 4), [0xf3, 0x0f, 0x1e, 0xfa]);
            self.memory.write(at, &[0x66, 0x0f, 0x1f, 0x00]);
        }
        let text = match flavor.patching {
            Patching::V6_1 => m.table(".text"),
            Patching::V6_12 => m.blocks[0].0..m.blocks[0].0 + m.blocks[0].1,
            Patching::V6_8 => unimplemented!("no module of 6.8 is simulated"),
        };
        for entry in m.table(".smp_locks").step_by(4) {
            let at = self.memory.pointed(entry);
            if at != entry && text.contains(&at) && self.machine.single && self.memory.at(at, 1)[0] == 0xf0 {
                self.memory.write(at, &[0x3e]);
            }
        }
        for entry in m.table("__mcount_loc").step_by(8) {
            let at = self.memory.u64(entry);
            if at == 0 {
                continue;
            }
            assert_eq!(self.memory.at(at, 1)[0], 0xe8);
            assert_eq!(self.memory.pointed(at + 1) + 4, self.symbol("__fentry__"));
            self.memory.write(at, nop(5));
        }
    }

    /// Jump labels and static calls, some of them changed; what they may hold.
    pub fn running(&mut self, m: &Loaded, r: &mut Random) -> BTreeMap<u64, SiteKind> {
        let mut sites = BTreeMap::new();
        for entry in m.table("__jump_table").step_by(16) {
            let (at, target) = (self.memory.pointed(entry), self.memory.pointed(entry + 4));
            let head = self.memory.at(at, 2).to_vec();
            let short = head == [0x66, 0x90] || head[0] == 0xeb;
            sites.insert(at, if short { SiteKind::Jump2 } else { SiteKind::Jump5 });
            match (short, r.below(3)) {
                (true, 0) => self.memory.write(at, nop(2)),
                (true, 1) => self.memory.write(at, &[0xeb, target.wrapping_sub(at + 2) as u8]),
                (false, 0) => self.memory.write(at, nop(5)),
                (false, 1) => self.memory.write(at, &Self::branch(0xe9, at, target)),
                _ => {}
            }
        }
        let function = self.function();
        for entry in m.table(".static_call_sites").step_by(8) {
            let at = self.memory.pointed(entry);
            let tail = self.memory.pointed(entry + 4) & 1 != 0;
            sites.insert(at, if tail { SiteKind::StaticJump } else { SiteKind::StaticCall });
            match (tail, r.below(4)) {
                (_, 0) => self.memory.write(at, &Self::branch(if tail { 0xe9 } else { 0xe8 }, at, function)),
                (false, 1) => self.memory.write(at, nop(5)),
                (false, 2) => self.memory.write(at, &[0x2e, 0x2e, 0x2e, 0x31, 0xc0]),
                (true, 1) => {
                    let code = self.return_form(at);
                    self.memory.write(at, &code);
                }
                _ => {}
            }
        }
        for (name, section, value) in m.symbols() {
            if name.starts_with("__SCT__") && section != 0 && section < 0xff00 {
                let at = m.address(section, value);
                sites.insert(at, SiteKind::Trampoline);
                if r.below(2) == 0 {
                    self.memory.write(at, &Self::branch(0xe9, at, function));
                }
            }
        }
        sites
    }
}
