//! A module's code as it is placed: bytes, and the fields its relocations fill in
//!
//! Whatever does not depend on where anything is placed is written into the bytes: PC-relative distances within a block,
//! and absolute values.
use anyhow::{Context, Result, bail, ensure};
use object::elf;
use secvisor_approval::wire::NONE;

use super::layout::{Block, Place};
use super::link::{Linked, var};
use crate::code::{Address, Code, Field, FieldKind};
use crate::insn;

/// A field of an [`Image`].
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Offset of the field.
    pub offset: u64,
    /// Its width in bytes, and whether it is relative to its own address.
    pub width: Width,
    /// What it holds.
    pub target: Address,
    /// Whether a patch site describes it.
    pub taken: bool,
}

/// How a field holds its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 4 bytes, target minus the field's address.
    Rel32,
    /// 4 bytes, sign-extended.
    Abs32,
    /// 8 bytes.
    Abs64,
}

impl Width {
    /// Its width in bytes.
    pub fn bytes(self) -> u64 {
        if self == Self::Abs64 { 8 } else { 4 }
    }
}

/// The code of a block.
pub struct Image {
    /// The block.
    pub block: Block,
    /// Number of the block's variable, see [`var`].
    pub var: u32,
    /// The bytes, gaps filled with zeros.
    pub bytes: Vec<u8>,
    /// Fields that are not known yet, by offset.
    pub slots: Vec<Slot>,
}

impl Image {
    /// The code of a block; `None` if there is none.
    pub fn new(linked: &Linked<'_>, block: Block) -> Result<Option<Self>> {
        let len = if block == Block::Text { linked.layout.text } else { linked.layout.init_text };
        if len == 0 {
            return Ok(None);
        }
        let var = var(linked.number, block);
        let mut image = Self { block, var, bytes: vec![0; len as usize], slots: Vec::new() };
        for (i, section) in linked.ko.sections.iter().enumerate() {
            let Some(place) = linked.layout.sections[i].filter(|p| section.is_code() && p.block == block) else {
                continue;
            };
            let bytes = linked.ko.bytes(i)?;
            ensure!(bytes.len() as u64 == section.size, "{} has no bytes", section.name);
            image.bytes[place.offset as usize..][..bytes.len()].copy_from_slice(bytes);
            image.relocate(linked, i, place).with_context(|| format!("relocations of {}", section.name))?;
        }
        image.slots.sort_by_key(|s| s.offset);
        let apart = image.slots.windows(2).all(|w| w[0].offset + w[0].width.bytes() <= w[1].offset);
        ensure!(apart, "two relocations change the same bytes");
        Ok(Some(image))
    }

    /// Applies a section's relocations.
    fn relocate(&mut self, linked: &Linked<'_>, section: usize, place: Place) -> Result<()> {
        let size = linked.ko.sections[section].size;
        for r in linked.ko.relocations(section)? {
            let width = match r.kind {
                elf::R_X86_64_NONE => continue,
                elf::R_X86_64_PC32 | elf::R_X86_64_PLT32 => Width::Rel32,
                elf::R_X86_64_32S => Width::Abs32,
                elf::R_X86_64_64 => Width::Abs64,
                kind => bail!("type {kind} at {:#x} is unknown", r.offset),
            };
            ensure!(r.offset.checked_add(width.bytes()).is_some_and(|end| end <= size), "one leaves the section");
            let offset = place.offset + r.offset;
            let field = &mut self.bytes[offset as usize..][..width.bytes() as usize];
            ensure!(field.iter().all(|b| *b == 0), "the field at {:#x} is not empty", r.offset);
            let target = linked.target(&r)?;
            match width {
                Width::Rel32 if target.var == self.var => {
                    field.copy_from_slice(&(target.value.wrapping_sub(offset) as u32).to_le_bytes());
                }
                Width::Abs32 if target.var == NONE => {
                    ensure!(target.value as i32 as u64 == target.value, "the value at {:#x} is too large", r.offset);
                    field.copy_from_slice(&(target.value as u32).to_le_bytes());
                }
                Width::Abs64 if target.var == NONE => field.copy_from_slice(&target.value.to_le_bytes()),
                _ => self.slots.push(Slot { offset, width, target, taken: false }),
            }
        }
        Ok(())
    }

    /// The code in `offset..offset + len`, with the fields in it. A PC-relative field's target is that of the
    /// instruction, as if the byte behind the field were the next instruction's.
    pub fn code(&self, offset: u64, len: usize) -> Result<Code> {
        let end = offset + len as u64;
        let bytes = self.bytes.get(offset as usize..end as usize).context("a patch site leaves the code")?;
        let mut code = Code::plain(bytes);
        for slot in &self.slots[self.slots_in(offset, end)?] {
            let pos = (slot.offset - offset) as usize;
            let (kind, target) = match slot.width {
                Width::Rel32 => (FieldKind::Rel32, slot.target.plus(4)),
                Width::Abs32 => (FieldKind::Abs32, slot.target),
                Width::Abs64 => bail!("a patch site at {offset:#x} holds an address of 8 bytes"),
            };
            code.fields.push(Field { pos, kind, target });
        }
        Ok(code)
    }

    /// As [`Self::code`]; the fields then belong to the site that is made of it.
    pub fn take(&mut self, offset: u64, len: usize) -> Result<Code> {
        let code = self.code(offset, len)?;
        let range = self.slots_in(offset, offset + len as u64)?;
        self.slots[range].iter_mut().for_each(|s| s.taken = true);
        Ok(code)
    }

    /// The code in `offset..offset + len` as it is moved elsewhere: what leaves it is a field, even within the block.
    pub fn movable(&self, offset: u64, len: usize) -> Result<Code> {
        let mut code = self.code(offset, len)?;
        for insn in insn::all(&code.bytes)? {
            let Some(part) = insn.relative.filter(|p| code.field(p.pos).is_none()) else { continue };
            let target = insn.target(&code.bytes).context("a branch has an odd width")?;
            if (0..=len as i64).contains(&target) {
                continue;
            }
            ensure!(part.len == 4, "a short branch leaves the code at {offset:#x}");
            let distance = target - insn.end() as i64;
            let target = self.place(offset).plus((part.pos + 4) as i64 + distance);
            code.bytes[part.pos..part.pos + 4].fill(0);
            code.fields.push(Field { pos: part.pos, kind: FieldKind::Rel32, target });
        }
        code.fields.sort_by_key(|f| f.pos);
        Ok(code)
    }

    /// The address of an offset.
    pub fn place(&self, offset: u64) -> Address {
        Address { var: self.var, value: offset }
    }

    /// The fields in a range of bytes; fails if one is cut.
    fn slots_in(&self, offset: u64, end: u64) -> Result<std::ops::Range<usize>> {
        let first = self.slots.partition_point(|s| s.offset + s.width.bytes() <= offset);
        let last = self.slots.partition_point(|s| s.offset < end);
        let whole = self.slots[first..last].iter().all(|s| s.offset >= offset && s.offset + s.width.bytes() <= end);
        ensure!(whole, "a relocation straddles the border of the patch site at {offset:#x}");
        Ok(first..last)
    }
}
