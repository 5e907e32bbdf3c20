//! The same as an approval, and as the bytes it is made of
use secvisor_approval::PAGE;
use secvisor_approval::build::{Builder, FixDef, RegionDef, SiteDef, SymbolDef, TemplateDef, VariantDef};
use secvisor_approval::wire::{FixKind, Info, KERNEL, NONE, RelocKind, SiteKind, VarClass, cond};

use super::{
    A_TEXT, ALPHA, B_TEXT, C_TEXT, CALL_FORM, FENTRY, FTRACE_CALLER, FTRACE_REGS_CALLER, Field, Form, IMAGE, Kind,
    LABEL, LINK, MODULE_END, MODULES, NOP5, O_TEXT, POINTER, R_TEXT, SPAN, SiteSpec, Spec, T_TEXT, TEXT, To, filler,
};
use crate::SLIDE;

impl Spec {
    /// The approval's page that is page `index` of a region.
    pub fn page(&self, region: usize, index: usize) -> u32 {
        self.regions[..region].iter().map(|r| r.pages as u32).sum::<u32>() + index as u32
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.regions.iter().map(|r| r.pages).sum()
    }

    /// All fields of a kernel region that move: those outside of sites, and those of what sites were linked as.
    pub fn relocs(&self, region: usize) -> Vec<(u64, RelocKind)> {
        let plain = self.fields.iter().filter(|f| f.region == region).map(|f| (f.offset, f.kind));
        let of_site = |s: &SiteSpec| {
            let Kind::Choice(forms) = &s.kind else { return Vec::new() };
            let moves = |field: &Field| match *field {
                Field::Abs32(pos, To::Kernel(_)) => Some((s.offset + pos as u64, RelocKind::Abs32)),
                Field::Rel32(pos, To::Const(_)) => Some((s.offset + pos as u64, RelocKind::Inverse32)),
                _ => None,
            };
            forms[0].fields.iter().filter_map(moves).collect()
        };
        plain.chain(self.regions[region].sites.iter().flat_map(of_site)).collect()
    }

    /// The bytes of a region before anything was patched, zeros where a field is.
    pub fn bytes(&self, region: usize) -> Vec<u8> {
        let r = &self.regions[region];
        let mut bytes: Vec<u8> = (0..r.pages * PAGE).map(|i| filler(region, i)).collect();
        if r.module != NONE {
            let end = bytes.len() - MODULE_END;
            bytes[end..].fill(0);
        }
        for s in &r.sites {
            let linked = match r.module {
                NONE => self.linked(s, r.base + s.offset, &[]),
                _ => match &s.kind {
                    Kind::Choice(forms) => forms[0].bytes.clone(),
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
        let symbol =
            |offset: u64, function| SymbolDef { offset: offset as u32, name: super::symbol(region, offset), function };
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
    let mut at = |to: To, before: i32| {
        let (var, value) = expr(to);
        b.local_expr(var, value.wrapping_sub(before as u64)).unwrap()
    };
    /// More than a site has room for.
    const FAR: i32 = 0x7654_bcde;
    match &s.kind {
        Kind::Abs32(to) => def(SiteKind::Abs32, at(*to, 0), 0),
        Kind::Rel32(to) => def(SiteKind::Rel32, at(*to, 0), -4),
        Kind::Abs64(to) => def(SiteKind::Abs64, at(*to, FAR), FAR),
        Kind::StaticCall(to) => def(SiteKind::StaticCall, at(*to, 0), 0),
        Kind::StaticJump(to) => def(SiteKind::StaticJump, at(*to, 0), 0),
        Kind::Trampoline(to) => def(SiteKind::Trampoline, at(*to, 0), 0),
        Kind::Choice(forms) => def(SiteKind::Choice, template(b, forms), 0),
        Kind::Jump2(to) => def(SiteKind::Jump2, 0, *to as i32),
        Kind::Jump5(to) => def(SiteKind::Jump5, 0, *to),
        Kind::Ftrace => def(SiteKind::Ftrace, 0, 0),
        Kind::FtraceCall => def(SiteKind::FtraceCall, 0, 0),
        Kind::Const(class, link) => def(SiteKind::Const, b.constant(*class, "constant", *link), 0),
        Kind::Segment(to) => def(SiteKind::Segment, at(*to, 0), 0),
    }
}

fn template(b: &mut Builder, forms: &[Form]) -> u16 {
    let mut variant = |f: &Form| {
        let mut fix = |field: &Field| {
            let (pos, kind, to) = match *field {
                Field::Rel32(pos, to) => (pos, FixKind::ExprRel32, to),
                Field::Abs32(pos, to) => (pos, FixKind::ExprAbs32, to),
            };
            let (var, value) = expr(to);
            FixDef { pos, kind: kind as u8, expr: b.expr(var, value), addend: 0 }
        };
        VariantDef { cond: f.cond, bytes: f.bytes.clone(), fixes: f.fields.iter().map(&mut fix).collect() }
    };
    let def = TemplateDef(forms.iter().map(&mut variant).collect());
    b.template(&def).unwrap()
}
