//! A few bytes of code whose position-dependent fields are known by what they point at
//!
//! Linux moves replacements to their sites and points branches elsewhere. Here a field is kept as its target,
//! so moving code needs no arithmetic.
use anyhow::{Result, bail};
use secvisor_approval::wire::NONE;

use crate::bytes::{hex, i32_at};
use crate::insn;

/// An address: a variable of the approval plus a constant; without a variable, absolute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Index of a variable, or [`NONE`].
    pub var: u32,
    /// Constant part; wraps.
    pub value: u64,
}

impl Address {
    /// An address of the kernel.
    pub fn absolute(value: u64) -> Self {
        Self { var: NONE, value }
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

    /// Code as linked at `at`: every 4-byte branch and RIP-relative operand that leaves it becomes a field. Short
    /// branches stay as they are; [`Self::check_movable`] refuses them where code is to be moved.
    pub fn linked(bytes: &[u8], at: u64) -> Result<Self> {
        let mut code = Self::plain(bytes);
        let len = bytes.len() as i64;
        for insn in insn::all(bytes)? {
            let Some(field) = insn.relative else { continue };
            let target = insn.target(bytes).unwrap_or_default();
            if (0..=len).contains(&target) || field.len != 4 {
                continue;
            }
            let end = (field.pos + 4) as i64;
            let rel = i32_at(bytes, field.pos).unwrap_or_default() as i64;
            let target = Address::absolute(at).plus(end + rel);
            code.bytes[field.pos..field.pos + 4].fill(0);
            code.fields.push(Field { pos: field.pos, kind: FieldKind::Rel32, target });
        }
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

    /// The bytes this code has at an absolute address, if every field is absolute too.
    pub fn at(&self, site: u64) -> Option<Vec<u8>> {
        let mut bytes = self.bytes.clone();
        for f in &self.fields {
            let value = match f.kind {
                FieldKind::Rel32 => f.target.distance_from(Address::absolute(site).plus(f.pos as i64 + 4))?,
                FieldKind::Abs32 if f.target.var == NONE => f.target.value as i64,
                FieldKind::Abs32 => return None,
            };
            bytes[f.pos..f.pos + 4].copy_from_slice(&(value as i32).to_le_bytes());
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
