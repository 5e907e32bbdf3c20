//! The kernel that the approval is of, its modules, trampoline and tracers: where everything lies, and every site
use std::ops::Range;

use secvisor_approval::PAGE;
use secvisor_approval::wire::{ConstClass, NONE, RegionKind, RelocKind, cond};

use super::{Field, FieldSpec, Form, Kind, RETURN, RegionSpec, SiteSpec, Spec, To};
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

fn form(cond: u16, bytes: &[u8]) -> Form {
    Form { cond, bytes: bytes.to_vec(), fields: Vec::new() }
}

fn branch_form(cond: u16, bytes: &[u8], pos: u8, to: To) -> Form {
    Form { cond, bytes: bytes.to_vec(), fields: vec![Field::Rel32(pos, to)] }
}

pub fn returns() -> Kind {
    let thunk = |cond, to| branch_form(cond, &[0xe9, 0, 0, 0, 0], 1, To::Kernel(to));
    let forms =
        vec![thunk(cond::BASE, RETURN_THUNK), form(cond::RETURN_PLAIN, &RETURN), thunk(cond::RETURN_SRSO, SRSO_THUNK)];
    Kind::Choice(forms)
}

pub fn retpoline() -> Kind {
    let forms = vec![
        branch_form(cond::BASE, &[0xe8, 0, 0, 0, 0], 1, To::Kernel(INDIRECT)),
        form(cond::INDIRECT_PLAIN, &[0xff, 0xd0, 0x0f, 0x1f, 0]),
        form(cond::INDIRECT_LFENCE, &[0x0f, 0xae, 0xe8, 0xff, 0xd0]),
    ];
    Kind::Choice(forms)
}

/// `clac` where the CPU has SMAP.
pub fn clac() -> Kind {
    let forms = vec![
        form(cond::BOOT_ONLY, &[0x90, 0x90, 0x90]),
        form(cond::BASE, &[0x0f, 0x1f, 0]),
        form(SMAP, &[0x0f, 0x01, 0xca]),
    ];
    Kind::Choice(forms)
}

pub fn lock() -> Kind {
    Kind::Choice(vec![form(cond::BASE, &[0xf0]), form(cond::UNIPROCESSOR, &[0x3e])])
}

pub fn endbr() -> Kind {
    let forms = vec![form(cond::BOOT_ONLY, &[0xf3, 0x0f, 0x1e, 0xfa]), form(cond::BASE, &[0x66, 0x0f, 0x1f, 0])];
    Kind::Choice(forms)
}

/// A paravirt call that is made direct, or replaced where there is no Xen.
pub fn paravirt() -> Kind {
    let forms = vec![
        branch_form(cond::BOOT_ONLY, &[0xff, 0x15, 0, 0, 0, 0], 2, To::Kernel(POINTER)),
        branch_form(cond::BASE, &[0xe8, 0, 0, 0, 0, 0x90], 1, To::Kernel(FUNCTION)),
        form(XENPV | cond::NOT, &[0xfb, 0x0f, 0x1f, 0x44, 0, 0]),
    ];
    Kind::Choice(forms)
}

/// What no kernel site shows: a feature of its own.
pub fn unshown() -> Kind {
    Kind::Choice(vec![form(cond::BASE, &[0xf3, 0xa4, 0x90]), form(UNSHOWN, &[0x0f, 0x1f, 0])])
}

/// A jump out of the site, shortened in one form; and an absolute address.
pub fn moved_jump() -> Kind {
    let forms = vec![
        branch_form(cond::BASE, &[0xe9, 0, 0, 0, 0, 0x90], 1, To::Kernel(FUNCTION)),
        form(XENPV, &[0xeb, 0x3e, 0xcc, 0xcc, 0xcc, 0xcc]),
        Form { cond: LA57, bytes: vec![0x48, 0xb8, 0, 0, 0, 0], fields: vec![Field::Abs32(2, To::Kernel(POINTER))] },
    ];
    Kind::Choice(forms)
}

/// A per-CPU variable, which does not move.
pub fn percpu() -> Kind {
    let linked =
        Form { cond: cond::BASE, bytes: vec![0x65, 0x48, 0x8b, 5, 0, 0, 0, 0], fields: vec![Field::Rel32(4, PERCPU)] };
    Kind::Choice(vec![linked, form(LA57, &[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0])])
}

/// The address of something in the kernel.
pub fn address() -> Kind {
    let fields = vec![Field::Abs32(3, To::Kernel(POINTER))];
    let linked = Form { cond: cond::BASE, bytes: vec![0x48, 0xc7, 0xc0, 0, 0, 0, 0], fields };
    Kind::Choice(vec![linked, form(LA57, &[0x0f, 0x1f, 0x80, 0, 0, 0, 0])])
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
}
