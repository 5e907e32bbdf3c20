//! A small approval that has everything: every kind of site, sites across page borders, modules
//!
//! [`Spec`] says what the code is and what Linux may make of it; [`Spec::file`] writes that as an approval with the
//! one builder there is. [`Spec::values`] lists what a site may hold from the same description, without any of the
//! rules' code: the tests hold the rules to it.
//!
//! The kernel it describes lies `SLIDE` bytes above where it was linked, a constant of who includes this;
//! [`Spec::file`] is the approval of the kernel as linked.
#![allow(dead_code)]
use std::ops::Range;

use secvisor_approval::PAGE;
use secvisor_approval::build::{Builder, FixDef, RegionDef, SiteDef, SymbolDef, TemplateDef, VariantDef};
use secvisor_approval::wire::{
    ConstClass, FixKind, Info, KERNEL, NONE, RegionKind, RelocKind, SiteKind, VarClass, cond,
};

use crate::SLIDE;

/// Where the kernel is linked.
pub const LINK: u64 = 0xffff_ffff_8100_0000;
/// Where it lies.
pub const IMAGE: u64 = LINK + SLIDE;
/// Memory the kernel asks for.
pub const SPAN: u64 = 0x1_4000;
/// Where modules may be.
pub const MODULES: Range<u64> = 0xffff_ffff_c000_0000..0xffff_ffff_ff00_0000;

/// A feature the CPU has, and two it has not.
pub const SMAP: u16 = 9 * 32 + 20;
pub const XENPV: u16 = 8 * 32 + 16;
pub const LA57: u16 = 16 * 32 + 16;
/// A feature that no site of the kernel shows.
pub const UNSHOWN: u16 = 9 * 32 + 9;

/// Functions of the kernel.
pub const FENTRY: u64 = IMAGE + 0x9000;
pub const FTRACE_CALLER: u64 = IMAGE + 0x9010;
pub const FTRACE_REGS_CALLER: u64 = IMAGE + 0x9020;
pub const RETURN_THUNK: u64 = IMAGE + 0x9030;
pub const SRSO_THUNK: u64 = IMAGE + 0x9040;
pub const FUNCTION: u64 = IMAGE + 0x9050;
pub const OTHER_FUNCTION: u64 = IMAGE + 0x9060;
pub const INDIRECT: u64 = IMAGE + 0x9100;
/// A symbol that is no function.
pub const LABEL: u64 = IMAGE + 0x9068;
/// A trampoline of the kernel.
pub const TRAMPOLINE: u64 = IMAGE + 0x100;
/// A pointer in the kernel's data.
pub const POINTER: u64 = IMAGE + 0xe010;
/// Where it leads before it moves: [`Spec::file`] fills the data with one byte.
pub const POINTED: u64 = 0x5a5a_5a5a_5a5a_5a5a;
/// A per-CPU variable.
pub const PERCPU: To = To::Const(0x1_8040);

/// Regions, by index.
pub const TEXT: usize = 0;
pub const FAR_TEXT: usize = 1;
pub const INIT: usize = 2;
pub const ALPHA: usize = 3;
pub const ALPHA_INIT: usize = 4;
pub const BETA: usize = 5;
pub const GAMMA: usize = 6;
pub const REALMODE: usize = 7;
pub const TRACER: usize = 8;
pub const OTHER_TRACER: usize = 9;

/// Variables, by index. `alpha` has one of each kind of block, `beta` exports to it, `gamma` refers to the kernel only;
/// `realmode` is the AP trampoline, `tracer` and `other_tracer` are the function tracer's.
pub const A_TEXT: u32 = 0;
pub const A_INIT: u32 = 1;
pub const A_DATA: u32 = 2;
pub const A_RODATA: u32 = 3;
pub const A_RO_AFTER_INIT: u32 = 4;
pub const A_INIT_DATA: u32 = 5;
pub const A_INIT_RODATA: u32 = 6;
pub const A_PERCPU: u32 = 7;
pub const B_TEXT: u32 = 8;
pub const B_DATA: u32 = 9;
pub const C_TEXT: u32 = 10;
pub const R_TEXT: u32 = 11;
pub const T_TEXT: u32 = 12;
pub const O_TEXT: u32 = 13;
/// Number of variables.
pub const VARS: usize = 14;

/// An address: in the kernel, the same wherever that lies, or counted from a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Kernel(u64),
    Const(u64),
    Var(u32, u64),
}

impl To {
    /// The address, given the variables.
    pub fn address(self, vars: &[u64]) -> u64 {
        match self {
            Self::Kernel(at) | Self::Const(at) => at,
            Self::Var(var, offset) => vars[var as usize].wrapping_add(offset),
        }
    }
}

/// A field of a form: its position and what it holds.
#[derive(Clone, Copy, Debug)]
pub enum Field {
    Rel32(u8, To),
    Abs32(u8, To),
    /// Relative to the site's own target.
    Site32(u8),
    Site8(u8),
}

/// One of the values of a choice.
#[derive(Clone, Debug)]
pub struct Form {
    pub cond: u16,
    pub bytes: Vec<u8>,
    pub fields: Vec<Field>,
}

fn form(cond: u16, bytes: &[u8]) -> Form {
    Form { cond, bytes: bytes.to_vec(), fields: Vec::new() }
}

fn branch_form(cond: u16, bytes: &[u8], pos: u8, to: To) -> Form {
    Form { cond, bytes: bytes.to_vec(), fields: vec![Field::Rel32(pos, to)] }
}

/// What a site is.
#[derive(Clone, Debug)]
pub enum Kind {
    Abs32(To),
    /// As in a branch: the distance from the byte behind the field.
    Rel32(To),
    Abs64(To),
    /// One of these; the number is how far the site's own target lies from its first byte.
    Choice(Vec<Form>, i32),
    Jump2(i8),
    Jump5(i32),
    Ftrace,
    FtraceCall,
    StaticCall(To),
    StaticJump(To),
    Trampoline(To),
    Const(ConstClass, u64),
    /// A real-mode segment.
    Segment(To),
}

impl Kind {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Abs32(_) | Self::Rel32(_) => 4,
            Self::Abs64(_) | Self::Trampoline(_) => 8,
            Self::Choice(forms, _) => forms[0].bytes.len(),
            Self::Jump2(_) | Self::Segment(_) => 2,
            Self::Const(class, _) => class.width(),
            _ => 5,
        }
    }
}

/// A site of a region.
#[derive(Clone, Debug)]
pub struct SiteSpec {
    pub offset: u64,
    pub kind: Kind,
}

/// A run of code pages.
pub struct RegionSpec {
    pub module: u32,
    pub kind: RegionKind,
    /// Address, or number of a variable.
    pub base: u64,
    pub pages: usize,
    pub sites: Vec<SiteSpec>,
    /// Offsets of functions.
    pub functions: Vec<u64>,
}

/// A field outside of all sites that moves with the kernel.
pub struct FieldSpec {
    pub region: usize,
    pub offset: u64,
    pub kind: RelocKind,
    /// What it leads to.
    pub to: u64,
}

/// When a value may be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Only before the kernel is pinned.
    Boot,
    /// A choice, by its condition.
    If(u16),
    /// At any time.
    Always,
    /// At any time, while it is being changed.
    Changing,
}

/// A value of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub when: When,
    pub bytes: Vec<u8>,
}

/// The kernel and its modules.
pub struct Spec {
    pub regions: Vec<RegionSpec>,
    pub fields: Vec<FieldSpec>,
}

pub const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0, 0];
const RETURN0: [u8; 5] = [0x2e, 0x2e, 0x2e, 0x31, 0xc0];
/// What a static call of this kernel may become besides.
pub const CALL_FORM: [u8; 5] = [0x67, 0x48, 0x0f, 0xb9, 0x3a];
const RETURN: [u8; 5] = [0xc3, 0xcc, 0xcc, 0xcc, 0xcc];

/// `opcode rel32` at `va`.
pub fn branch(opcode: u8, va: u64, to: u64) -> Vec<u8> {
    let rel = (to as i64 - (va as i64 + 5)) as i32;
    [&[opcode][..], &rel.to_le_bytes()].concat()
}

pub fn returns() -> Kind {
    let thunk = |cond, to| branch_form(cond, &[0xe9, 0, 0, 0, 0], 1, To::Kernel(to));
    let forms =
        vec![thunk(cond::BASE, RETURN_THUNK), form(cond::RETURN_PLAIN, &RETURN), thunk(cond::RETURN_SRSO, SRSO_THUNK)];
    Kind::Choice(forms, 0)
}

pub fn retpoline() -> Kind {
    let forms = vec![
        branch_form(cond::BASE, &[0xe8, 0, 0, 0, 0], 1, To::Kernel(INDIRECT)),
        form(cond::INDIRECT_PLAIN, &[0xff, 0xd0, 0x0f, 0x1f, 0]),
        form(cond::INDIRECT_LFENCE, &[0x0f, 0xae, 0xe8, 0xff, 0xd0]),
    ];
    Kind::Choice(forms, 0)
}

/// `clac` where the CPU has SMAP.
pub fn clac() -> Kind {
    let forms = vec![
        form(cond::BOOT_ONLY, &[0x90, 0x90, 0x90]),
        form(cond::BASE, &[0x0f, 0x1f, 0]),
        form(SMAP, &[0x0f, 0x01, 0xca]),
    ];
    Kind::Choice(forms, 0)
}

pub fn lock() -> Kind {
    Kind::Choice(vec![form(cond::BASE, &[0xf0]), form(cond::UNIPROCESSOR, &[0x3e])], 0)
}

pub fn endbr() -> Kind {
    let forms = vec![form(cond::BOOT_ONLY, &[0xf3, 0x0f, 0x1e, 0xfa]), form(cond::BASE, &[0x66, 0x0f, 0x1f, 0])];
    Kind::Choice(forms, 0)
}

/// A paravirt call that is made direct, or replaced where there is no Xen.
pub fn paravirt() -> Kind {
    let forms = vec![
        branch_form(cond::BOOT_ONLY, &[0xff, 0x15, 0, 0, 0, 0], 2, To::Kernel(POINTER)),
        branch_form(cond::BASE, &[0xe8, 0, 0, 0, 0, 0x90], 1, To::Kernel(FUNCTION)),
        form(XENPV | cond::NOT, &[0xfb, 0x0f, 0x1f, 0x44, 0, 0]),
    ];
    Kind::Choice(forms, 0)
}

/// What no kernel site shows: a feature of its own.
pub fn unshown() -> Kind {
    Kind::Choice(vec![form(cond::BASE, &[0xf3, 0xa4, 0x90]), form(UNSHOWN, &[0x0f, 0x1f, 0])], 0)
}

/// A jump out of the site, shortened in one form; and an absolute address.
pub fn moved_jump() -> Kind {
    let forms = vec![
        Form { cond: cond::BASE, bytes: vec![0xe9, 0, 0, 0, 0, 0x90], fields: vec![Field::Site32(1)] },
        Form { cond: XENPV, bytes: vec![0xeb, 0, 0xcc, 0xcc, 0xcc, 0xcc], fields: vec![Field::Site8(1)] },
        Form { cond: LA57, bytes: vec![0x48, 0xb8, 0, 0, 0, 0], fields: vec![Field::Abs32(2, To::Kernel(POINTER))] },
    ];
    Kind::Choice(forms, 0x40)
}

/// A per-CPU variable, which does not move.
pub fn percpu() -> Kind {
    let linked =
        Form { cond: cond::BASE, bytes: vec![0x65, 0x48, 0x8b, 5, 0, 0, 0, 0], fields: vec![Field::Rel32(4, PERCPU)] };
    Kind::Choice(vec![linked, form(LA57, &[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0])], 0)
}

/// The address of something in the kernel.
pub fn address() -> Kind {
    let fields = vec![Field::Abs32(3, To::Kernel(POINTER))];
    let linked = Form { cond: cond::BASE, bytes: vec![0x48, 0xc7, 0xc0, 0, 0, 0, 0], fields };
    Kind::Choice(vec![linked, form(LA57, &[0x0f, 0x1f, 0x80, 0, 0, 0, 0])], 0)
}

/// The kernel's first page, where every kind of site is.
fn palette() -> Vec<SiteSpec> {
    let kinds = [
        Kind::Ftrace,
        Kind::Jump2(0x10),
        Kind::Jump5(0x200),
        Kind::StaticCall(To::Kernel(TRAMPOLINE)),
        Kind::StaticJump(To::Kernel(TRAMPOLINE)),
        Kind::Const(ConstClass::Pointer, 0x0123_4567_89ab_cdef),
        Kind::Const(ConstClass::Shift, 12),
        Kind::Const(ConstClass::UserPtrMax, 0x0123_4567_89ab_cdef),
        Kind::Const(ConstClass::Mask, 0x1234_5678),
        returns(),
        retpoline(),
        clac(),
        lock(),
        endbr(),
        paravirt(),
    ];
    // Trampolines are where functions are.
    let mut sites: Vec<_> = kinds.into_iter().enumerate().map(|(i, kind)| site(16 * i as u64, kind)).collect();
    sites.push(site(0x100, Kind::Trampoline(To::Kernel(FUNCTION))));
    sites.push(site(0x110, Kind::FtraceCall));
    sites.push(site(0x120, moved_jump()));
    sites.push(site(0x130, percpu()));
    sites.push(site(0x140, address()));
    sites
}

pub fn site(offset: u64, kind: Kind) -> SiteSpec {
    SiteSpec { offset, kind }
}

fn kernel_text() -> RegionSpec {
    let mut sites = palette();
    let across = [
        (3, Kind::Jump5(0x80)),
        (2, returns()),
        (1, Kind::StaticCall(To::Kernel(TRAMPOLINE))),
        (6, Kind::Trampoline(To::Kernel(FUNCTION))),
        (3, Kind::Const(ConstClass::Pointer, 0x0123_4567_89ab_cdef)),
        (4, Kind::Ftrace),
        (1, Kind::Jump2(-8)),
        (2, Kind::StaticJump(To::Kernel(TRAMPOLINE))),
    ];
    for (page, (before, kind)) in across.into_iter().enumerate() {
        sites.push(site((page as u64 + 1) * PAGE as u64 - before, kind));
    }
    let functions = [FENTRY, FTRACE_CALLER, FTRACE_REGS_CALLER, RETURN_THUNK, SRSO_THUNK, FUNCTION, OTHER_FUNCTION];
    let mut functions: Vec<u64> = functions.iter().map(|f| f - IMAGE).collect();
    functions.extend([0x100, 4 * PAGE as u64 - 6]);
    RegionSpec { module: NONE, kind: RegionKind::KernelText, base: IMAGE, pages: 10, sites, functions }
}

fn alpha_text() -> RegionSpec {
    let page = PAGE as u64;
    let mut sites: Vec<_> = [
        Kind::Rel32(To::Kernel(FUNCTION)),
        Kind::Rel32(To::Var(B_TEXT, 0x40)),
        Kind::Rel32(To::Var(A_DATA, 0x48)),
        Kind::Abs32(To::Var(A_RODATA, 0x80)),
        Kind::Abs64(To::Var(A_DATA, 8)),
        Kind::Abs32(To::Var(A_RO_AFTER_INIT, 0)),
        Kind::Abs32(To::Var(A_PERCPU, 0x10)),
        returns(),
        retpoline(),
        clac(),
        Kind::Ftrace,
        Kind::Jump5(0x40),
        Kind::Jump2(4),
        Kind::StaticCall(To::Kernel(TRAMPOLINE)),
        Kind::StaticCall(To::Var(A_TEXT, 0x100)),
        lock(),
    ]
    .into_iter()
    .enumerate()
    .map(|(i, kind)| site(16 * i as u64, kind))
    .collect();
    sites.push(site(0x100, Kind::Trampoline(To::Var(A_TEXT, page + 0x80))));
    sites.push(site(page - 2, Kind::Rel32(To::Var(A_DATA, 0x100))));
    sites.push(site(page + 0x20, Kind::Rel32(To::Var(A_DATA, 0x200))));
    sites.push(site(page + 0x40, Kind::Abs32(To::Var(A_TEXT, 0x80))));
    sites.push(site(page + 0x60, Kind::Abs32(To::Kernel(FUNCTION))));
    sites.push(site(page + 0x70, Kind::Rel32(PERCPU)));
    sites.push(site(page + 0x90, Kind::Abs64(To::Kernel(POINTER))));
    sites.push(site(2 * page - 3, returns()));
    sites.push(site(2 * page + 0x10, Kind::Ftrace));
    sites.push(site(2 * page + 0x40, Kind::StaticCall(To::Var(B_TEXT, 0x40))));
    sites.push(site(3 * page - 4, Kind::StaticCall(To::Kernel(TRAMPOLINE))));
    RegionSpec {
        module: 0,
        kind: RegionKind::ModuleText,
        base: A_TEXT as u64,
        pages: 4,
        sites,
        functions: vec![0x100, page + 0x80],
    }
}

fn alpha_init() -> RegionSpec {
    let sites = vec![
        site(0x10, Kind::Rel32(To::Var(A_TEXT, 0x180))),
        site(0x20, Kind::Abs32(To::Var(A_INIT_DATA, 0x20))),
        site(0x30, Kind::Rel32(To::Var(A_INIT_RODATA, 0x20))),
        site(0x40, returns()),
        site(0x50, Kind::StaticCall(To::Kernel(TRAMPOLINE))),
    ];
    RegionSpec { module: 0, kind: RegionKind::ModuleInit, base: A_INIT as u64, pages: 1, sites, functions: vec![0x180] }
}

fn beta() -> RegionSpec {
    let sites = vec![
        site(0x10, Kind::Rel32(To::Var(B_DATA, 0x40))),
        site(0x20, Kind::Rel32(To::Kernel(OTHER_FUNCTION))),
        site(0x30, returns()),
        site(0x50, unshown()),
        site(PAGE as u64 + 0x10, returns()),
        site(PAGE as u64 + 0x60, unshown()),
    ];
    RegionSpec { module: 1, kind: RegionKind::ModuleText, base: B_TEXT as u64, pages: 2, sites, functions: vec![0x40] }
}

fn gamma() -> RegionSpec {
    // The last site ends with the last page of all.
    let last = 2 * PAGE as u64 - 2;
    let sites = vec![
        site(0x10, Kind::Rel32(To::Kernel(FUNCTION))),
        site(0x20, returns()),
        site(PAGE as u64 - 3, unshown()),
        site(PAGE as u64 + 0x900, unshown()),
        site(last, Kind::Jump2(-9)),
    ];
    RegionSpec { module: 2, kind: RegionKind::ModuleText, base: C_TEXT as u64, pages: 2, sites, functions: vec![0x60] }
}

/// As Linux's: the first page of what is placed is not text, fields count from there.
fn realmode() -> RegionSpec {
    let page = PAGE as u64;
    let placed = |offset: u64| To::Var(R_TEXT, offset.wrapping_sub(page));
    let sites = vec![
        site(6, Kind::Segment(placed(0))),
        site(0x38, Kind::Abs32(placed(0x1ff0))),
        site(0x54, Kind::Segment(placed(0))),
        site(0xff4, Kind::Abs32(placed(0))),
        site(page - 2, Kind::Abs32(placed(0x5014))),
        site(page + 0x20, Kind::Abs32(placed(0x4000))),
        site(2 * page - 1, Kind::Segment(placed(0))),
        // It ends with the last page of all.
        site(3 * page - 2, Kind::Segment(placed(0))),
    ];
    RegionSpec { module: 3, kind: RegionKind::ModuleText, base: R_TEXT as u64, pages: 3, sites, functions: Vec::new() }
}

/// A copy of ftrace's entry code for the `ftrace_ops` at `ops`.
fn tracer(module: u32, base: u32, ops: u64) -> RegionSpec {
    let sites = vec![site(0x10, Kind::FtraceCall), site(0x30, returns()), site(0x35, Kind::Abs64(To::Kernel(ops)))];
    RegionSpec { module, kind: RegionKind::Tracer, base: base as u64, pages: 1, sites, functions: Vec::new() }
}

impl Spec {
    /// The kernel `TEXT`, `FAR_TEXT`, `INIT`, the modules `alpha`, `beta` and `gamma`, the AP trampoline, and tracers.
    pub fn new() -> Self {
        let far = RegionSpec {
            module: NONE,
            kind: RegionKind::KernelText,
            base: IMAGE + 0xb000,
            pages: 1,
            // In the middle, and up to the last byte.
            sites: vec![
                site(0x20, returns()),
                site(0x30, Kind::Jump5(-0x20)),
                site(0x900, Kind::Jump2(6)),
                site(PAGE as u64 - 5, Kind::Ftrace),
            ],
            functions: vec![0x10],
        };
        let init = RegionSpec {
            module: NONE,
            kind: RegionKind::KernelInit,
            base: IMAGE + 0x1_0000,
            pages: 3,
            sites: vec![
                site(0x20, returns()),
                site(0x30, Kind::Jump5(0x100)),
                site(PAGE as u64 - 2, clac()),
                site(PAGE as u64 + 0x10, Kind::Ftrace),
            ],
            functions: vec![0x10],
        };
        let field = |region, offset, kind, to| FieldSpec { region, offset, kind, to };
        let page = PAGE as u64;
        let fields = vec![
            field(TEXT, 0x400, RelocKind::Abs32, POINTER),
            field(TEXT, 0x420, RelocKind::Abs64, FUNCTION),
            field(TEXT, 0x440, RelocKind::Inverse32, 0x1_8040),
            // Across the border of two pages.
            field(TEXT, 8 * page + 0xffd, RelocKind::Abs32, POINTER),
            field(INIT, 2 * page - 7, RelocKind::Abs64, POINTER),
            // Up to the last byte.
            field(INIT, 3 * page - 4, RelocKind::Inverse32, 0x1_8044),
        ];
        let tracers = [tracer(4, T_TEXT, POINTER), tracer(5, O_TEXT, POINTER + 8)];
        let regions = [kernel_text(), far, init, alpha_text(), alpha_init(), beta(), gamma(), realmode()];
        Self { regions: regions.into_iter().chain(tracers).collect(), fields }
    }

    /// All fields of a kernel region that move: those outside of sites, and those of what sites were linked as.
    pub fn relocs(&self, region: usize) -> Vec<(u64, RelocKind)> {
        let plain = self.fields.iter().filter(|f| f.region == region).map(|f| (f.offset, f.kind));
        let of_site = |s: &SiteSpec| {
            let Kind::Choice(forms, _) = &s.kind else { return Vec::new() };
            let moves = |field: &Field| match *field {
                Field::Abs32(pos, To::Kernel(_)) => Some((s.offset + pos as u64, RelocKind::Abs32)),
                Field::Rel32(pos, To::Const(_)) => Some((s.offset + pos as u64, RelocKind::Inverse32)),
                _ => None,
            };
            forms[0].fields.iter().filter_map(moves).collect()
        };
        plain.chain(self.regions[region].sites.iter().flat_map(of_site)).collect()
    }

    /// The approval's page that is page `index` of a region.
    pub fn page(&self, region: usize, index: usize) -> u32 {
        self.regions[..region].iter().map(|r| r.pages as u32).sum::<u32>() + index as u32
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.regions.iter().map(|r| r.pages).sum()
    }

    /// Address of a region.
    pub fn base(&self, region: usize, vars: &[u64]) -> u64 {
        let r = &self.regions[region];
        if r.module == NONE { r.base } else { vars[r.base as usize] }
    }

    /// Addresses of all functions.
    pub fn functions(&self, vars: &[u64]) -> Vec<u64> {
        let placed = |i: &usize| self.base(*i, vars) != 0;
        let of = |i: usize| self.regions[i].functions.iter().map(move |f| self.base(i, vars) + f);
        (0..self.regions.len()).filter(placed).flat_map(of).collect()
    }

    /// The bytes of a region before anything was patched, zeros where a field is.
    pub fn bytes(&self, region: usize) -> Vec<u8> {
        let r = &self.regions[region];
        let mut bytes: Vec<u8> = (0..r.pages * PAGE).map(|i| filler(region, i)).collect();
        for s in &r.sites {
            let linked = match r.module {
                NONE => self.linked(s, r.base + s.offset, &[]),
                _ => match &s.kind {
                    Kind::Choice(forms, _) => forms[0].bytes.clone(),
                    Kind::Jump2(_) => vec![0x66, 0x90],
                    Kind::Jump5(_) | Kind::Ftrace => NOP5.to_vec(),
                    kind => vec![0; kind.len()],
                },
            };
            bytes[s.offset as usize..][..linked.len()].copy_from_slice(&linked);
        }
        for f in self.fields.iter().filter(|f| f.region == region) {
            let value = match f.kind {
                RelocKind::Inverse32 => f.to.wrapping_sub(r.base + f.offset + 4),
                _ => f.to,
            };
            bytes[f.offset as usize..][..f.kind.width()].copy_from_slice(&value.to_le_bytes()[..f.kind.width()]);
        }
        bytes
    }

    /// The same where the kernel was linked.
    pub fn linked_bytes(&self, region: usize) -> Vec<u8> {
        let mut bytes = self.bytes(region);
        for (offset, kind) in self.relocs(region) {
            let field = &mut bytes[offset as usize..][..kind.width()];
            let mut value = [0; 8];
            value[..field.len()].copy_from_slice(field);
            let value = u64::from_le_bytes(value);
            let value = if kind == RelocKind::Inverse32 { value + SLIDE } else { value.wrapping_sub(SLIDE) };
            field.copy_from_slice(&value.to_le_bytes()[..kind.width()]);
        }
        bytes
    }

    /// A site as it is when nothing was patched.
    pub fn linked(&self, site: &SiteSpec, va: u64, vars: &[u64]) -> Vec<u8> {
        match &site.kind {
            Kind::Abs32(to) => (to.address(vars) as u32).to_le_bytes().to_vec(),
            Kind::Rel32(to) => (to.address(vars).wrapping_sub(va + 4) as u32).to_le_bytes().to_vec(),
            Kind::Abs64(to) => to.address(vars).to_le_bytes().to_vec(),
            Kind::Choice(forms, own) => placed(&forms[0], va, *own, vars),
            Kind::Jump2(_) => vec![0x66, 0x90],
            Kind::Jump5(_) => NOP5.to_vec(),
            Kind::Ftrace => branch(0xe8, va, FENTRY),
            Kind::FtraceCall => branch(0xe8, va, FUNCTION),
            Kind::StaticCall(to) => branch(0xe8, va, to.address(vars)),
            Kind::StaticJump(to) => branch(0xe9, va, to.address(vars)),
            Kind::Trampoline(to) => [&branch(0xe9, va, to.address(vars))[..], &[0x0f, 0xb9, 0xcc]].concat(),
            Kind::Const(class, link) => link.to_le_bytes()[..class.width()].to_vec(),
            Kind::Segment(to) => ((to.address(vars) / 16) as u16).to_le_bytes().to_vec(),
        }
    }

    /// All values a site may hold. Of a run-time constant some; [`constant`] knows them all.
    pub fn values(&self, site: &SiteSpec, va: u64, vars: &[u64]) -> Vec<Value> {
        let always = |bytes: Vec<u8>| Value { when: When::Always, bytes };
        let linked = || always(self.linked(site, va, vars));
        let called = |opcode| {
            let mut all: Vec<_> = self.functions(vars).iter().map(|f| always(branch(opcode, va, *f))).collect();
            let plain: &[[u8; 5]] = if opcode == 0xe8 { &[NOP5, RETURN0] } else { &[RETURN] };
            all.extend(plain.iter().map(|p| always(p.to_vec())));
            all.extend(all.clone().into_iter().map(|v| {
                let bytes = [&[0xcc][..], &v.bytes[1..]].concat();
                Value { when: When::Changing, bytes }
            }));
            all
        };
        match &site.kind {
            Kind::Abs32(_) | Kind::Rel32(_) | Kind::Abs64(_) | Kind::Segment(_) => vec![linked()],
            Kind::Choice(forms, own) => {
                forms.iter().map(|f| Value { when: When::If(f.cond), bytes: placed(f, va, *own, vars) }).collect()
            }
            Kind::Jump2(to) => {
                let (nop, jump) = ([0x66, 0x90], [0xeb, *to as u8]);
                [vec![always(nop.to_vec()), always(jump.to_vec())], mixes(&nop, &jump)].concat()
            }
            Kind::Jump5(to) => {
                let jump = branch(0xe9, va, va.wrapping_add(5).wrapping_add_signed(*to as i64));
                [vec![always(NOP5.to_vec()), always(jump.clone())], mixes(&NOP5, &jump)].concat()
            }
            Kind::Ftrace => {
                let calls = [branch(0xe8, va, FTRACE_CALLER), branch(0xe8, va, FTRACE_REGS_CALLER)];
                let mut all = vec![always(NOP5.to_vec()), always(calls[0].clone()), always(calls[1].clone())];
                all.push(Value { when: When::Boot, bytes: branch(0xe8, va, FENTRY) });
                all.extend(mixes(&NOP5, &calls[0]));
                all.extend(mixes(&NOP5, &calls[1]));
                for tracer in [T_TEXT, O_TEXT] {
                    let placed = vars.get(tracer as usize).filter(|base| **base != 0);
                    all.extend(placed.into_iter().flat_map(|base| {
                        let call = branch(0xe8, va, *base);
                        [vec![always(call.clone())], mixes(&NOP5, &call)].concat()
                    }));
                }
                all
            }
            Kind::FtraceCall => called(0xe8),
            Kind::StaticCall(_) => {
                let changing = [&[0xcc][..], &CALL_FORM[1..]].concat();
                let form = [always(CALL_FORM.to_vec()), Value { when: When::Changing, bytes: changing }];
                [called(0xe8), vec![linked()], form.to_vec()].concat()
            }
            Kind::StaticJump(_) => [called(0xe9), vec![linked()]].concat(),
            Kind::Trampoline(_) => {
                let tail = |mut v: Value| {
                    v.bytes.extend([0x0f, 0xb9, 0xcc]);
                    v
                };
                [called(0xe9).into_iter().map(tail).collect(), vec![linked()]].concat()
            }
            Kind::Const(class, link) => {
                let value: &[u64] = match class {
                    ConstClass::Pointer => &[0xffff_8880_1234_5000, 0xffff_ffff_ffff_ffff],
                    ConstClass::Shift => &[0, 63, 17],
                    ConstClass::UserPtrMax => &[0x7fff_ffff_f000, 0xff_ffff_ffff_f000],
                    ConstClass::Mask => &[0, 1, 0xffff, 0xffff_ffff],
                };
                let all = value.iter().chain([link]);
                all.map(|v| Value { when: When::Boot, bytes: v.to_le_bytes()[..class.width()].to_vec() }).collect()
            }
        }
    }

    /// The approval.
    pub fn file(&self) -> Vec<u8> {
        let mut b = Builder::new();
        b.run((POINTER & !0xfff) - IMAGE, &[0x5a; 32]);
        b.reloc((POINTER - IMAGE) as u32, RelocKind::Abs64);
        for (region, r) in self.regions.iter().enumerate().filter(|(_, r)| r.module == NONE) {
            for (offset, kind) in self.relocs(region) {
                b.reloc((r.base - IMAGE + offset) as u32, kind);
            }
        }
        let classes = [
            VarClass::Code,
            VarClass::Code,
            VarClass::Data,
            VarClass::Data,
            VarClass::Data,
            VarClass::Data,
            VarClass::Data,
            VarClass::PerCpu,
        ];
        let mut begun = NONE;
        for region in 0..self.regions.len() {
            if region == ALPHA {
                assert_eq!(b.module("alpha", &classes), (0, A_TEXT));
                assert_eq!(b.module("beta", &[VarClass::Code, VarClass::Data]), (1, B_TEXT));
                assert_eq!(b.module("gamma", &[VarClass::Code]), (2, C_TEXT));
                assert_eq!(b.module("realmode", &[VarClass::Low]), (3, R_TEXT));
                assert_eq!(b.module("tracer", &[VarClass::Code]), (4, T_TEXT));
                assert_eq!(b.module("other_tracer", &[VarClass::Code]), (5, O_TEXT));
            }
            let module = self.regions[region].module;
            if module != begun {
                b.begin_module(module);
                begun = module;
            }
            let def = self.region(&mut b, region);
            b.region(def).unwrap();
        }
        let form = VariantDef { cond: cond::BASE, bytes: CALL_FORM.to_vec(), fixes: Vec::new() };
        let call_forms = b.template(&TemplateDef(vec![form])).unwrap().into();
        let info = Info {
            image_va: LINK,
            image_phys: 0x20_0000,
            image_span: SPAN,
            entry_offset: 0x10,
            align: 0x20_0000,
            modules_start: MODULES.start,
            modules_end: MODULES.end,
            fentry: FENTRY - SLIDE,
            ftrace_caller: FTRACE_CALLER - SLIDE,
            ftrace_regs_caller: FTRACE_REGS_CALLER - SLIDE,
            percpu_start: 0,
            release: b.name("6.12.0-synthetic"),
            cmdline: b.name("nohibernate"),
            boot_version: 0x20f,
            cmdline_size: 2048,
            call_forms,
        };
        b.finish(info)
    }

    fn region(&self, b: &mut Builder, region: usize) -> RegionDef {
        let r = &self.regions[region];
        let sites = r.sites.iter().map(|s| define(b, s)).collect();
        let symbol = |offset: u64, function| SymbolDef {
            offset: offset as u32,
            name: format!("symbol_{region}_{offset:x}"),
            function,
        };
        let mut symbols: Vec<_> = r.functions.iter().map(|f| symbol(*f, true)).collect();
        if region == TEXT {
            symbols.push(symbol(LABEL - IMAGE, false));
        }
        let (base, bytes) = match r.module {
            NONE => (r.base - SLIDE, self.linked_bytes(region)),
            _ => (r.base, self.bytes(region)),
        };
        RegionDef { module: r.module, kind: r.kind, base, bytes, sites, symbols }
    }
}

/// Bytes that are not a site's; no two pages are alike.
pub fn filler(region: usize, at: usize) -> u8 {
    let mixed = (at as u32).wrapping_add(region as u32 * 77_777).wrapping_mul(2_654_435_761);
    (mixed >> 13) as u8 | 1
}

/// INT3 first, then the tail of one or the other.
fn mixes(a: &[u8], b: &[u8]) -> Vec<Value> {
    let poked = |v: &[u8]| Value { when: When::Changing, bytes: [&[0xcc][..], &v[1..]].concat() };
    vec![poked(a), poked(b)]
}

/// The bytes of a form at an address.
fn placed(form: &Form, va: u64, own: i32, vars: &[u64]) -> Vec<u8> {
    let mut bytes = form.bytes.clone();
    for field in &form.fields {
        let (pos, value) = match *field {
            Field::Rel32(pos, to) => (pos, to.address(vars).wrapping_sub(va + pos as u64 + 4)),
            Field::Abs32(pos, to) => (pos, to.address(vars)),
            Field::Site32(pos) => (pos, (own as i64 - (pos as i64 + 4)) as u64),
            Field::Site8(pos) => {
                bytes[pos as usize] = (own as i64 - (pos as i64 + 1)) as u8;
                continue;
            }
        };
        bytes[pos as usize..][..4].copy_from_slice(&(value as u32).to_le_bytes());
    }
    bytes
}

/// Whether a run-time constant may have this value.
pub fn constant(class: ConstClass, link: u64, bytes: &[u8]) -> bool {
    let mut whole = [0; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    let value = u64::from_le_bytes(whole);
    bytes == &link.to_le_bytes()[..bytes.len()]
        || match class {
            ConstClass::Pointer => value >> 47 == 0x1ffff,
            ConstClass::Shift => value <= 63,
            ConstClass::UserPtrMax => [0x7fff_ffff_f000, 0xff_ffff_ffff_f000].contains(&value),
            ConstClass::Mask => (0..=32).any(|n| value == (1u64 << n) - 1),
        }
}

fn expr(to: To) -> (u32, u64) {
    match to {
        To::Kernel(at) => (KERNEL, at - SLIDE),
        To::Const(value) => (NONE, value),
        To::Var(var, offset) => (var, offset),
    }
}

/// The site as the builder takes it.
fn define(b: &mut Builder, s: &SiteSpec) -> SiteDef {
    let def = |kind, index, arg| SiteDef { offset: s.offset, kind, index, arg };
    let mut local = |to: To| {
        let (var, value) = expr(to);
        b.local_expr(var, value).unwrap()
    };
    match &s.kind {
        Kind::Abs32(to) => def(SiteKind::Abs32, local(*to), 0),
        Kind::Rel32(to) => def(SiteKind::Rel32, local(*to), -4),
        Kind::Abs64(to) => def(SiteKind::Abs64, local(*to), 0),
        Kind::StaticCall(to) => def(SiteKind::StaticCall, local(*to), 0),
        Kind::StaticJump(to) => def(SiteKind::StaticJump, local(*to), 0),
        Kind::Trampoline(to) => def(SiteKind::Trampoline, local(*to), 0),
        Kind::Choice(forms, own) => def(SiteKind::Choice, template(b, forms), *own),
        Kind::Jump2(to) => def(SiteKind::Jump2, 0, *to as i32),
        Kind::Jump5(to) => def(SiteKind::Jump5, 0, *to),
        Kind::Ftrace => def(SiteKind::Ftrace, 0, 0),
        Kind::FtraceCall => def(SiteKind::FtraceCall, 0, 0),
        Kind::Const(class, link) => def(SiteKind::Const, b.constant(*class, "constant", *link), 0),
        Kind::Segment(to) => def(SiteKind::Segment, local(*to), 0),
    }
}

fn template(b: &mut Builder, forms: &[Form]) -> u16 {
    let mut variant = |f: &Form| {
        let mut fix = |field: &Field| {
            let (pos, kind, to) = match *field {
                Field::Rel32(pos, to) => (pos, FixKind::ExprRel32, Some(to)),
                Field::Abs32(pos, to) => (pos, FixKind::ExprAbs32, Some(to)),
                Field::Site32(pos) => (pos, FixKind::SiteRel32, None),
                Field::Site8(pos) => (pos, FixKind::SiteRel8, None),
            };
            let expr = to.map_or(0, |to| {
                let (var, value) = expr(to);
                b.expr(var, value)
            });
            FixDef { pos, kind: kind as u8, expr, addend: 0 }
        };
        VariantDef { cond: f.cond, bytes: f.bytes.clone(), fixes: f.fields.iter().map(&mut fix).collect() }
    };
    let def = TemplateDef(forms.iter().map(&mut variant).collect());
    b.template(&def).unwrap()
}
