//! A small approval that has everything: every kind of site, sites across page borders, modules
//!
//! [`Spec`] says what the code is and what Linux may make of it; [`Spec::file`] writes that as an approval with the
//! one builder there is. [`Spec::values`] lists what a site may hold from the same description, without any of the
//! rules' code: the tests hold the rules to it.
//!
//! The kernel it describes lies `SLIDE` bytes above where it was linked, a constant of who includes this;
//! [`Spec::file`] is the approval of the kernel as linked.
#![allow(dead_code)]
mod file;
mod kernel;
mod values;

use secvisor_approval::wire::{ConstClass, NONE, RegionKind, RelocKind};

pub use kernel::*;
// Not every test needs them.
#[allow(unused_imports)]
pub use values::{Value, When, constant};

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
}

/// One of the values of a choice.
#[derive(Clone, Debug)]
pub struct Form {
    pub cond: u16,
    pub bytes: Vec<u8>,
    pub fields: Vec<Field>,
}

/// What a site is.
#[derive(Clone, Debug)]
pub enum Kind {
    Abs32(To),
    /// As in a branch: the distance from the byte behind the field.
    Rel32(To),
    Abs64(To),
    /// One of these.
    Choice(Vec<Form>),
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
            Self::Choice(forms) => forms[0].bytes.len(),
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

/// The kernel and its modules.
pub struct Spec {
    pub regions: Vec<RegionSpec>,
    pub fields: Vec<FieldSpec>,
}

impl Spec {
    /// Address of a region.
    pub fn base(&self, region: usize, vars: &[u64]) -> u64 {
        let r = &self.regions[region];
        if r.module == NONE { r.base } else { vars[r.base as usize] }
    }
}

pub const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0, 0];
/// What a static call of this kernel may become besides.
pub const CALL_FORM: [u8; 5] = [0x67, 0x48, 0x0f, 0xb9, 0x3a];
const RETURN: [u8; 5] = [0xc3, 0xcc, 0xcc, 0xcc, 0xcc];

/// `opcode rel32` at `va`.
pub fn branch(opcode: u8, va: u64, to: u64) -> Vec<u8> {
    let rel = (to as i64 - (va as i64 + 5)) as i32;
    [&[opcode][..], &rel.to_le_bytes()].concat()
}

/// What a function is called; every other is a cold part.
pub fn symbol(region: usize, offset: u64) -> String {
    let end = if offset & 0x10 == 0 { "" } else { ".cold" };
    format!("symbol_{region}_{offset:x}{end}")
}

/// So many bytes at the end of a module's code are zero, sites apart.
pub const MODULE_END: usize = 0x300;

/// Bytes that are not a site's; no two pages are alike. Those of every other region can be packed.
pub fn filler(region: usize, at: usize) -> u8 {
    let at = if region.is_multiple_of(2) { at & !7 } else { at };
    let mixed = (at as u32).wrapping_add(region as u32 * 77_777).wrapping_mul(2_654_435_761);
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(2_246_822_519);
    (mixed >> 13) as u8 | 1
}
