//! A few bytes of code whose position-dependent fields are known by what they point at
//!
//! Linux moves replacements to their sites and points branches elsewhere. Here a field is kept as its target,
//! so moving code needs no arithmetic.
use anyhow::{Result, bail};
use secvisor_approval::wire::{KERNEL, NONE};

use crate::bytes::{hex, i32_at};
use crate::insn;
use crate::relocs::Relocs;

/// An address: a variable of the approval plus a constant; without a variable, in the kernel's image or absolute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Index of a variable, [`KERNEL`], or [`NONE`].
    pub var: u32,
    /// Constant part; wraps.
    pub value: u64,
}

impl Address {
    /// A link address of the kernel's: it moves with the image.
    pub fn kernel(value: u64) -> Self {
        Self { var: KERNEL, value }
    }
    /// What is the same wherever anything lies.
    pub fn absolute(value: u64) -> Self {
        Self { var: NONE, value }
    }
    /// Whether it counts from a variable.
    pub fn is_variable(self) -> bool {
        !matches!(self.var, NONE | KERNEL)
    }
    /// The address `by` bytes further.
    pub fn plus(self, by: i64) -> Self {
        Self { var: self.var, value: self.value.wrapping_add_signed(by) }
    }
    /// How far it is from `from` to here, if that does not depend on where things are placed.
    pub fn distance_from(self, from: Self) -> Option<i64> {
        (self.var == from.var).then(|| self.value.wrapping_sub(from.value) as i64)
    }
}

/// How a field holds its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldKind {
    /// 4 bytes: target minus the address of the byte behind the field.
    Rel32,
    /// 4 bytes: target, sign-extended.
    Abs32,
}

/// A field that depends on where the code is or on what is placed elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// Position in the code.
    pub pos: usize,
    /// How it holds its target.
    pub kind: FieldKind,
    /// What it points at.
    pub target: Address,
}

/// Bytes of code. Those of fields are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Code {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Fields, by position.
    pub fields: Vec<Field>,
}

impl Code {
    /// Code without fields.
    pub fn plain(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), fields: Vec::new() }
    }

    /// `opcode rel32` to `target`.
    pub fn branch(opcode: u8, target: Address) -> Self {
        Self { bytes: vec![opcode, 0, 0, 0, 0], fields: vec![Field { pos: 1, kind: FieldKind::Rel32, target }] }
    }

    /// The kernel's code as linked at `at`: every 4-byte branch and RIP-relative operand that leaves it becomes a field,
    /// and every address that moves with the image. Short branches stay as they are; [`Self::check_movable`] refuses them
    /// where code is to be moved.
    pub fn linked(bytes: &[u8], at: u64, relocs: &Relocs) -> Result<Self> {
        let mut code = Self::plain(bytes);
        let len = bytes.len() as i64;
        let end = at + bytes.len() as u64;
        if let Some(field) = relocs.abs64.range(at.saturating_sub(7)..end).next() {
            bail!("an address of 8 bytes in code that is patched, at {field:#x}");
        }
        for field in relocs.abs32.range(at.saturating_sub(3)..end) {
            let pos = field.checked_sub(at).filter(|pos| pos + 4 <= len as u64);
            let Some(pos) = pos.map(|pos| pos as usize) else { bail!("an address across patched code at {at:#x}") };
            let value = i32_at(bytes, pos).unwrap_or_default() as i64 as u64;
            code.bytes[pos..pos + 4].fill(0);
            code.fields.push(Field { pos, kind: FieldKind::Abs32, target: Address::kernel(value) });
        }
        for insn in insn::all(bytes)? {
            let Some(field) = insn.relative else { continue };
            let target = insn.target(bytes).unwrap_or_default();
            if (0..=len).contains(&target) || field.len != 4 {
                continue;
            }
            let end = (field.pos + 4) as i64;
            let rel = i32_at(bytes, field.pos).unwrap_or_default() as i64;
            let target = at.wrapping_add_signed(end + rel);
            let moves = !relocs.inverse32.contains(&(at + field.pos as u64));
            let target = if moves { Address::kernel(target) } else { Address::absolute(target) };
            code.bytes[field.pos..field.pos + 4].fill(0);
            code.fields.push(Field { pos: field.pos, kind: FieldKind::Rel32, target });
        }
        code.fields.sort_by_key(|f| f.pos);
        Ok(code)
    }

    /// Fails if the code has a short branch that would lead elsewhere once the code is moved.
    pub fn check_movable(&self) -> Result<()> {
        let len = self.len() as i64;
        for insn in insn::all(&self.bytes)? {
            let short = insn.relative.is_some_and(|r| r.len != 4);
            if short && !insn.target(&self.bytes).is_some_and(|t| (0..=len).contains(&t)) {
                bail!("short branch out of code that is moved: {}", hex(&self.bytes));
            }
        }
        Ok(())
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Fills up to `len` bytes.
    pub fn padded(mut self, len: usize, with: u8) -> Self {
        if self.bytes.len() < len {
            self.bytes.resize(len, with);
        }
        self
    }

    /// Puts other code over this one at `pos`.
    pub fn overlaid(mut self, pos: usize, other: &Self) -> Self {
        let end = pos + other.len();
        self.bytes[pos..end].copy_from_slice(&other.bytes);
        self.fields.retain(|f| f.pos + 4 <= pos || f.pos >= end);
        self.fields.extend(other.fields.iter().map(|f| Field { pos: f.pos + pos, ..*f }));
        self.fields.sort_by_key(|f| f.pos);
        self
    }

    /// The field at `pos`.
    pub fn field(&self, pos: usize) -> Option<&Field> {
        self.fields.iter().find(|f| f.pos == pos)
    }

    /// The bytes this code has at a link address, if it does not depend on where modules are.
    pub fn at(&self, site: u64) -> Option<Vec<u8>> {
        let mut bytes = self.bytes.clone();
        for f in self.fields.iter() {
            let next = site + f.pos as u64 + 4;
            let value = match f.kind {
                _ if f.target.is_variable() => return None,
                FieldKind::Rel32 => f.target.value.wrapping_sub(next),
                FieldKind::Abs32 => f.target.value,
            };
            bytes[f.pos..f.pos + 4].copy_from_slice(&(value as u32).to_le_bytes());
        }
        Some(bytes)
    }
}

/// One value of a site, and the condition that selects it. In a list the last one that holds is the right one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// A condition of the approval.
    pub cond: u16,
    /// The bytes, as long as the site.
    pub code: Code,
}

impl Variant {
    /// A variant.
    pub fn new(cond: u16, code: Code) -> Self {
        Self { cond, code }
    }
}
