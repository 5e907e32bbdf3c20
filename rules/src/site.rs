//! May a site hold these bytes?
//!
//! Whole-site comparison: a site holds one of its values entirely, or one of the intermediate states of
//! `text_poke_bp` (INT3 first, tail old, new or in between; `arch/x86/kernel/alternative.c`).
use secvisor_approval::view::View;
use secvisor_approval::wire::{
    ConstClass, Expr, FixKind, KERNEL, LOW_END, MAX_SITE, NONE, RegionKind, Site, SiteKind, Template, VarClass, Variant,
};

use crate::check::{Check, made};
use crate::choice::Choices;
use crate::tracer::Tracers;

/// Bytes of a site as found in memory. Of a site that straddles two pages only one part may be known.
pub(crate) struct Seen<'s> {
    /// As long as the site; zero where not known.
    pub bytes: &'s [u8],
    /// First known byte.
    pub low: usize,
    /// One behind the last known byte.
    pub high: usize,
}

impl Seen<'_> {
    fn is(&self, value: &[u8]) -> bool {
        self.bytes[self.low..self.high] == value[self.low..self.high]
    }
    fn whole(&self) -> bool {
        self.low == 0 && self.high == self.bytes.len()
    }
    /// Whether the site is being changed between two values by the INT3 protocol: the first byte is INT3, the tail that
    /// of one or the other. A tail that is half written is seen only from code in the same page
    /// ([`crate::page::Match::unfinished`]).
    fn pokes(&self, a: &[u8], b: &[u8]) -> bool {
        let int3 = self.low > 0 || self.bytes[0] == INT3 || !made(Check::Int3);
        let low = self.low.max(1);
        let tail = |value: &[u8]| low >= self.high || self.bytes[low..self.high] == value[low..self.high];
        int3 && (tail(a) || tail(b))
    }
}

/// When a page is looked at, in the life of the code it belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Kernel code while Linux patches itself at boot.
    Boot,
    /// Kernel code from the first user-mode instruction on.
    Pinned,
    /// Module code: what is patched at load has been.
    Loaded,
}

/// Values of variables: those bound, and those a page under comparison would bind.
#[derive(Clone)]
pub(crate) struct Bindings {
    pending: [(u32, u64); MAX_PENDING],
    len: usize,
    /// Variables of a module that is looked at as if it were newly placed: what they were bound to does not count.
    fresh: core::ops::Range<u32>,
}

/// Most variables one page may bind.
const MAX_PENDING: usize = 24;

impl Bindings {
    pub(crate) fn new(fresh: core::ops::Range<u32>) -> Self {
        Self { pending: [(0, 0); MAX_PENDING], len: 0, fresh }
    }
    /// Value of a variable; `None` while unbound.
    pub(crate) fn get(&self, vars: &[u64], var: u32) -> Option<u64> {
        if let Some((_, value)) = self.pending().iter().find(|(v, _)| *v == var) {
            return Some(*value);
        }
        let bound = vars[var as usize];
        (bound != 0 && !self.fresh.contains(&var)).then_some(bound)
    }
    /// Binds a variable; fails if its class does not allow the value.
    pub(crate) fn bind(&mut self, view: &View<'_>, var: u32, value: u64) -> bool {
        let range = match made(Check::VarRange) {
            true => view.info.modules_start..view.info.modules_end,
            false => 0..u64::MAX,
        };
        let ok = match VarClass::new(view.vars.at(var as usize).class) {
            Some(VarClass::Code | VarClass::Data) => value.is_multiple_of(4096) && range.contains(&value),
            // 0 is what is unbound.
            Some(VarClass::PerCpu) => value != 0 && (1..1 << 31).contains(&value.wrapping_sub(view.info.percpu_start)),
            Some(VarClass::Low) => {
                let own = view.regions.iter().filter(|r| r.module != NONE && r.base == var as u64);
                let len = own.map(|r| r.pages as u64 * 4096).max().unwrap_or(0);
                value.is_multiple_of(4096) && (4096..=LOW_END - len).contains(&value)
            }
            None => false,
        };
        if !ok || self.len == MAX_PENDING {
            return false;
        }
        self.pending[self.len] = (var, value);
        self.len += 1;
        true
    }
    /// Whether some variables are looked at as if they were not bound.
    pub(crate) fn anew(&self) -> bool {
        !self.fresh.is_empty()
    }
    pub(crate) fn pending(&self) -> &[(u32, u64)] {
        &self.pending[..self.len]
    }
}

const INT3: u8 = 0xcc;
const NOP2: [u8; 2] = [0x66, 0x90];
const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];
/// `data16 data16 xor %eax,%eax`: what a static call to `__static_call_return0` becomes.
const RETURN0: [u8; 5] = [0x2e, 0x2e, 0x2e, 0x31, 0xc0];
/// `ret; int3; int3; int3; int3`.
const RETURN: [u8; 5] = [0xc3, INT3, INT3, INT3, INT3];
/// `ud1 %esp, %ecx`: the mark behind every static-call trampoline.
const TRAMPOLINE_TAIL: [u8; 3] = [0x0f, 0xb9, 0xcc];

/// What a site is compared with.
pub(crate) struct Context<'c, 'a> {
    pub view: &'c View<'a>,
    pub vars: &'c [u64],
    pub choices: &'c Choices,
    pub tracers: Tracers<'c, 'a>,
    pub phase: Phase,
    /// Index of the first expression of the region's module; 0 for the kernel.
    pub first_expr: usize,
}

/// A branch instruction of 5 bytes at `va`.
fn branch(opcode: u8, va: u64, target: u64) -> [u8; 5] {
    let [a, b, c, d] = (target.wrapping_sub(va + 5) as u32).to_le_bytes();
    [opcode, a, b, c, d]
}

/// The value of a field of `len` bytes, sign-extended.
fn field(bytes: &[u8]) -> u64 {
    match *bytes {
        [a, b, c, d] => i32::from_le_bytes([a, b, c, d]) as u64,
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        [a] => a as u64,
        _ => 0,
    }
}

impl<'a> Context<'_, 'a> {
    /// Whether `site` at `va` may hold what was `seen`; `last` are the bytes last verified there.
    #[inline]
    pub(crate) fn allows(&self, site: &Site, va: u64, seen: &Seen<'_>, last: &[u8], binds: &mut Bindings) -> bool {
        let Some(kind) = site.kind() else { return false };
        if !made(Check::Site) {
            return true;
        }
        match kind {
            SiteKind::Abs32 => self.address(site, 0, seen, binds),
            SiteKind::Rel32 => self.address(site, va, seen, binds),
            SiteKind::Abs64 => self.address(site, 0, seen, binds),
            SiteKind::Choice | SiteKind::Const if self.phase == Phase::Pinned && made(Check::Pinned) => seen.is(last),
            SiteKind::Choice => self.choice(site, va, seen, binds),
            SiteKind::Const => self.constant(site, seen),
            SiteKind::Jump2 => {
                let jump = [0xeb, site.arg() as u8];
                seen.is(&NOP2) || seen.is(&jump) || seen.pokes(&NOP2, &jump)
            }
            SiteKind::Jump5 => {
                let jump = branch(0xe9, 0, (site.arg() as u64).wrapping_add(5));
                seen.is(&NOP5) || seen.is(&jump) || seen.pokes(&NOP5, &jump)
            }
            SiteKind::Ftrace => self.ftrace(va, seen),
            SiteKind::FtraceCall => self.static_call(0xe8, va, seen, binds),
            SiteKind::StaticCall => {
                self.link_form(0xe8, site, va, seen, binds)
                    || self.static_call(0xe8, va, seen, binds)
                    || self.call_form(seen)
            }
            SiteKind::StaticJump => {
                self.link_form(0xe9, site, va, seen, binds) || self.static_call(0xe9, va, seen, binds)
            }
            SiteKind::Trampoline => self.trampoline(site, va, seen, binds),
            SiteKind::Segment => self.value(&self.expr(site), binds).is_some_and(|value| {
                let segment = value.wrapping_add(site.arg() as u64) >> 4;
                seen.is(&segment.to_le_bytes()[..2])
            }),
        }
    }

    fn value(&self, expr: &Expr, binds: &Bindings) -> Option<u64> {
        match expr.var {
            NONE | KERNEL => Some(expr.value),
            var => Some(binds.get(self.vars, var)?.wrapping_add(expr.value)),
        }
    }

    fn expr(&self, site: &Site) -> Expr {
        self.view.exprs.at(self.first_expr + site.index() as usize)
    }

    /// A relocated field: recomputed, or solved for its variable if that is not bound yet.
    fn address(&self, site: &Site, place: u64, seen: &Seen<'_>, binds: &mut Bindings) -> bool {
        let expr = self.expr(site);
        let constant = (site.arg() as u64).wrapping_sub(place);
        match self.value(&expr, binds) {
            Some(value) => {
                let bytes = value.wrapping_add(constant).to_le_bytes();
                // A field of 4 bytes that is not relative must be the sign extension Linux checks for.
                seen.is(&bytes[..seen.bytes.len()]) || !made(Check::Relocation)
            }
            None if seen.whole() => {
                let value = field(seen.bytes).wrapping_sub(constant).wrapping_sub(expr.value);
                binds.bind(self.view, expr.var, value)
            }
            // Half a field that could be anything could also be any instruction.
            None => !made(Check::HalfField),
        }
    }

    /// Whether a choice site at `va` holds this variant.
    fn holds(&self, v: &Variant, va: u64, seen: &Seen<'_>, binds: &Bindings) -> bool {
        let plain = self.view.variant_bytes(v, seen.bytes.len());
        if v.fixes == 0 {
            return seen.is(plain);
        }
        let mut fixed = [0; MAX_SITE];
        let fixed = &mut fixed[..plain.len()];
        fixed.copy_from_slice(plain);
        self.fix(v, va, binds, fixed).is_some() && seen.is(fixed)
    }

    /// Writes the fields of a variant that depend on where the site is; `None` if one depends on a variable that is
    /// not bound.
    fn fix(&self, v: &Variant, va: u64, binds: &Bindings, out: &mut [u8]) -> Option<()> {
        for fix in self.view.fixes.range(v.first_fix as usize, v.fixes as usize) {
            let at = fix.pos as usize;
            let value = self.value(&self.view.exprs.at(fix.expr as usize), binds)?.wrapping_add(fix.addend as u64);
            let field = match FixKind::new(fix.kind)? {
                FixKind::ExprRel32 => value.wrapping_sub(va + at as u64 + 4),
                FixKind::ExprAbs32 => value,
            };
            out[at..at + 4].copy_from_slice(&(field as u32).to_le_bytes());
        }
        Some(())
    }

    /// Conditions of a template's variants, from one on.
    fn conditions(&self, template: Template, from: usize) -> impl Iterator<Item = u16> + use<'a> {
        let (first, count) = (template.first_variant as usize + from, template.variants as usize - from);
        self.view.variants.range(first, count).map(|v| v.cond)
    }

    fn choice(&self, site: &Site, va: u64, seen: &Seen<'_>, binds: &Bindings) -> bool {
        let template = self.view.templates.at(site.index() as usize);
        let variants = self.view.variants.range(template.first_variant as usize, template.variants as usize);
        variants.enumerate().any(|(i, v)| {
            self.holds(&v, va, seen, binds)
                && (self.phase == Phase::Boot
                    || !made(Check::Chosen)
                    || self.choices.possible(self.conditions(template, i)))
        })
    }

    /// The variant a choice site holds: a template and an index to learn from, if only one that Linux may choose has
    /// these bytes and if it tells anything new.
    pub(crate) fn chosen(
        &self,
        site: &Site,
        va: u64,
        seen: &Seen<'_>,
        binds: &Bindings,
    ) -> Option<impl Iterator<Item = u16> + use<'a>> {
        let template = self.view.templates.at(site.index() as usize);
        if self.choices.settled(self.conditions(template, 0)) {
            return None;
        }
        let variants = self.view.variants.range(template.first_variant as usize, template.variants as usize);
        let mut fitting = variants
            .enumerate()
            .filter(|(i, v)| self.holds(v, va, seen, binds) && self.choices.possible(self.conditions(template, *i)));
        let (index, _) = fitting.next()?;
        let only = fitting.next().is_none();
        only.then(|| self.conditions(template, index))
    }

    fn constant(&self, site: &Site, seen: &Seen<'_>) -> bool {
        let constant = self.view.consts.at(site.index() as usize);
        let Some(class) = ConstClass::new(constant.class) else { return false };
        let value = field(seen.bytes);
        seen.is(&constant.link.to_le_bytes()[..class.width()])
            || seen.whole()
                && match class {
                    ConstClass::Pointer => value >= 0xffff_8000_0000_0000,
                    ConstClass::Shift => value < 64,
                    ConstClass::UserPtrMax => value == 0x7fff_ffff_f000 || value == 0xff_ffff_ffff_f000,
                    ConstClass::Mask => (value as u32).wrapping_add(1) & value as u32 == 0,
                }
    }

    fn ftrace(&self, va: u64, seen: &Seen<'_>) -> bool {
        let info = &self.view.info;
        let may_be = |value: [u8; 5]| seen.is(&value) || seen.pokes(&value, &value);
        let call = |target| branch(0xe8, va, target);
        may_be(NOP5)
            || [info.ftrace_caller, info.ftrace_regs_caller].into_iter().any(|caller| may_be(call(caller)))
            || self.tracers.live().any(|tracer| may_be(call(tracer)))
            || self.phase == Phase::Boot && seen.is(&call(info.fentry))
    }

    fn link_form(&self, opcode: u8, site: &Site, va: u64, seen: &Seen<'_>, binds: &mut Bindings) -> bool {
        let expr = self.expr(site);
        match self.value(&expr, binds) {
            Some(value) => seen.is(&branch(opcode, va, value.wrapping_add(site.arg() as u64))),
            None if seen.whole() && seen.bytes[0] == opcode => {
                let target = field(&seen.bytes[1..5]).wrapping_add(va + 5);
                binds.bind(self.view, expr.var, target.wrapping_sub(expr.value).wrapping_sub(site.arg() as u64))
            }
            None => false,
        }
    }

    /// A static call that has been given its target: any function, or one of the forms without a branch. Which
    /// function a key may have cannot be read from the image.
    fn static_call(&self, opcode: u8, va: u64, seen: &Seen<'_>, binds: &Bindings) -> bool {
        let plain: [&[u8; 5]; 2] = if opcode == 0xe8 { [&NOP5, &RETURN0] } else { [&RETURN, &RETURN] };
        let poked = |value: &[u8; 5]| seen.low > 0 || seen.bytes[0] == value[0] || seen.bytes[0] == INT3;
        let tail = |value: &[u8; 5]| (seen.low.max(1)..seen.high).all(|i| seen.bytes[i] == value[i]);
        if plain.iter().any(|p| poked(p) && tail(p)) {
            return true;
        }
        let target = field(&seen.bytes[1..5]).wrapping_add(va + 5);
        seen.whole()
            && (seen.bytes[0] == opcode || seen.bytes[0] == INT3)
            && (self.is_function(target, binds) || !made(Check::Function))
    }

    /// What else a call of a certain function becomes, by this kernel: the function's one instruction.
    fn call_form(&self, seen: &Seen<'_>) -> bool {
        let Some(forms) = self.view.call_forms() else { return false };
        let mut forms = self.view.variants.range(forms.first_variant as usize, forms.variants as usize);
        forms.any(|form| {
            let form = self.view.variant_bytes(&form, seen.bytes.len());
            seen.is(form) || seen.pokes(form, form)
        })
    }

    fn trampoline(&self, site: &Site, va: u64, seen: &Seen<'_>, binds: &mut Bindings) -> bool {
        let tail_low = seen.low.max(5);
        let tail_ok = (tail_low..seen.high).all(|i| seen.bytes[i] == TRAMPOLINE_TAIL[i - 5]);
        if seen.low >= 5 {
            return tail_ok;
        }
        let head = Seen { bytes: &seen.bytes[..5], low: seen.low, high: seen.high.min(5) };
        tail_ok && (self.link_form(0xe9, site, va, &head, binds) || self.static_call(0xe9, va, &head, binds))
    }

    /// Whether a function of the kernel, or of a module that has its place, begins at `va`. The module whose page is
    /// under comparison has one.
    pub(crate) fn is_function(&self, va: u64, binds: &Bindings) -> bool {
        self.view.regions.iter().any(|r| {
            let base = match RegionKind::new(r.kind) {
                Some(RegionKind::KernelText | RegionKind::KernelInit) => r.base,
                _ => binds.get(self.vars, r.base as u32).unwrap_or(0),
            };
            let offset = va.wrapping_sub(base);
            base != 0 && offset < r.pages as u64 * 4096 && self.view.function_at(&r, offset as u32)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_not_the_whole() {
        let seen = |low, high| Seen { bytes: &[0xcc, 0x10], low, high };
        assert!(seen(0, 2).whole());
        assert!(!seen(0, 1).whole() && !seen(1, 2).whole() && !seen(1, 1).whole());
    }

    #[test]
    fn fields_are_read_with_their_signs() {
        assert_eq!(field(&[0xff, 0xff, 0xff, 0xff]), u64::MAX);
        assert_eq!(field(&[1, 0, 0, 0x80]), 0xffff_ffff_8000_0001);
        assert_eq!(field(&[1, 2, 3, 4, 5, 6, 7, 0x88]), 0x8807_0605_0403_0201);
        assert_eq!(field(&[0xff]), 0xff);
        assert_eq!(field(&[1, 2]), 0);
    }
}
