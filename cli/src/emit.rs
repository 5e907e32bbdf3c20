//! From variants to the approval's templates
use std::collections::HashMap;

use anyhow::{Result, bail};
use secvisor_approval::build::{Builder, FixDef, TemplateDef, VariantDef};
use secvisor_approval::wire::{ConstClass, FixKind, KERNEL, MAX_SITE, NONE, cond};

use crate::branches::{Retpoline, ReturnThunks, return_variants, upper_half};
use crate::code::{Address, Code, FieldKind, Variant};
use crate::flavor::Flavor;

/// Most values a site may have in the approval.
const MAX_VARIANTS: usize = 16;

/// An approval in the making, and what its kernel and modules share.
pub struct Emitter {
    /// The approval.
    pub builder: Builder,
    /// How the kernel patches.
    pub flavor: Flavor,
    thunks: ReturnThunks,
    indirect_array: u64,
    kernel_exprs: HashMap<Address, u32>,
    returns: [Option<u16>; 2],
    retpolines: HashMap<Retpoline, u16>,
    constants: HashMap<String, u16>,
}

impl Emitter {
    /// Begins an approval for a kernel with these thunks.
    pub fn new(flavor: Flavor, thunks: ReturnThunks, indirect_array: u64) -> Self {
        Self {
            builder: Builder::new(),
            flavor,
            thunks,
            indirect_array,
            kernel_exprs: HashMap::new(),
            returns: [None; 2],
            retpolines: HashMap::new(),
            constants: HashMap::new(),
        }
    }

    /// The kernel's return thunks.
    pub fn return_thunks(&self) -> &ReturnThunks {
        &self.thunks
    }

    /// `__x86_indirect_thunk_array`.
    pub fn indirect_array(&self) -> u64 {
        self.indirect_array
    }

    /// Global index of an address, for fixes. Kernel addresses are stored once for all modules.
    pub fn expr(&mut self, address: Address) -> u32 {
        let builder = &mut self.builder;
        match address.var {
            NONE | KERNEL => {
                *self.kernel_exprs.entry(address).or_insert_with(|| builder.expr(address.var, address.value))
            }
            var => builder.expr(var, address.value),
        }
    }

    /// Template for a list of variants; the first must be the linked form. Sites that differ only in where they
    /// are share it.
    pub fn template(&mut self, site: Address, variants: &[Variant]) -> Result<u16> {
        let len = variants.first().map_or(0, |v| v.code.len());
        if !(1..=MAX_SITE).contains(&len) || variants.len() > MAX_VARIANTS {
            bail!("{} values of {len} bytes, which the approval cannot hold", variants.len());
        }
        let defs = variants.iter().map(|v| self.variant(site, v)).collect::<Result<_>>()?;
        Ok(self.builder.template(&TemplateDef(defs))?)
    }

    fn variant(&mut self, site: Address, variant: &Variant) -> Result<VariantDef> {
        let Code { mut bytes, fields } = variant.code.clone();
        let mut fixes = Vec::new();
        for f in fields {
            // Distances within a module's text are fixed.
            let own = f.target.is_variable() && f.kind == FieldKind::Rel32;
            let here = site.plus(f.pos as i64 + 4);
            if let Some(distance) = f.target.distance_from(here).filter(|_| own) {
                let Ok(rel) = i32::try_from(distance) else { bail!("branch over more than 2 GiB") };
                bytes[f.pos..f.pos + 4].copy_from_slice(&rel.to_le_bytes());
                continue;
            }
            let kind = match f.kind {
                FieldKind::Rel32 => FixKind::ExprRel32,
                FieldKind::Abs32 => FixKind::ExprAbs32,
            };
            fixes.push(FixDef { pos: f.pos as u8, kind: kind as u8, expr: self.expr(f.target), addend: 0 });
        }
        Ok(VariantDef { cond: variant.cond, bytes, fixes })
    }

    /// Template of a return site at `site`.
    pub fn return_template(&mut self, site: Address) -> Result<u16> {
        let slot = upper_half(site) as usize;
        if let Some(index) = self.returns[slot] {
            return Ok(index);
        }
        let variants = return_variants(site, &self.thunks);
        let index = self.template(site, &variants)?;
        self.returns[slot] = Some(index);
        Ok(index)
    }

    /// Template of a retpoline site.
    pub fn retpoline_template(&mut self, retpoline: Retpoline) -> Result<u16> {
        if let Some(index) = self.retpolines.get(&retpoline) {
            return Ok(*index);
        }
        let variants = retpoline.variants(self.flavor, self.indirect_array);
        let index = self.template(Address::kernel(0), &variants)?;
        self.retpolines.insert(retpoline, index);
        Ok(index)
    }

    /// Template of an ENDBR that Linux removes at boot and when a module is loaded.
    pub fn endbr_template(&mut self) -> Result<u16> {
        let link = Variant::new(cond::BOOT_ONLY, Code::plain([0xf3, 0x0f, 0x1e, 0xfa]));
        let sealed = Variant::new(cond::BASE, Code::plain(self.flavor.seal));
        self.template(Address::kernel(0), &[link, sealed])
    }

    /// Template of a LOCK prefix.
    pub fn lock_template(&mut self) -> Result<u16> {
        let lock = Variant::new(cond::BASE, Code::plain([0xf0]));
        let single = Variant::new(cond::UNIPROCESSOR, Code::plain([0x3e]));
        self.template(Address::kernel(0), &[lock, single])
    }

    /// A run-time constant, declared once.
    pub fn constant(&mut self, class: ConstClass, name: &str, link: u64) -> u16 {
        let builder = &mut self.builder;
        *self.constants.entry(name.to_owned()).or_insert_with(|| builder.constant(class, name, link))
    }
}
