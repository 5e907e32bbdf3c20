//! What a site may hold, worked out from the description alone
use secvisor_approval::wire::ConstClass;

use super::{
    CALL_FORM, FENTRY, FTRACE_CALLER, FTRACE_REGS_CALLER, FUNCTION, Field, Form, Kind, NOP5, O_TEXT, RETURN, SiteSpec,
    Spec, T_TEXT, branch,
};

const RETURN0: [u8; 5] = [0x2e, 0x2e, 0x2e, 0x31, 0xc0];

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

impl Spec {
    /// Addresses of all functions.
    pub fn functions(&self, vars: &[u64]) -> Vec<u64> {
        let placed = |i: &usize| self.base(*i, vars) != 0;
        let of = |i: usize| self.regions[i].functions.iter().map(move |f| self.base(i, vars) + f);
        (0..self.regions.len()).filter(placed).flat_map(of).collect()
    }

    /// A site as it is when nothing was patched.
    pub fn linked(&self, site: &SiteSpec, va: u64, vars: &[u64]) -> Vec<u8> {
        match &site.kind {
            Kind::Abs32(to) => (to.address(vars) as u32).to_le_bytes().to_vec(),
            Kind::Rel32(to) => (to.address(vars).wrapping_sub(va + 4) as u32).to_le_bytes().to_vec(),
            Kind::Abs64(to) => to.address(vars).to_le_bytes().to_vec(),
            Kind::Choice(forms) => placed(&forms[0], va, vars),
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
            Kind::Choice(forms) => {
                forms.iter().map(|f| Value { when: When::If(f.cond), bytes: placed(f, va, vars) }).collect()
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
}

/// INT3 first, then the tail of one or the other.
fn mixes(a: &[u8], b: &[u8]) -> Vec<Value> {
    let poked = |v: &[u8]| Value { when: When::Changing, bytes: [&[0xcc][..], &v[1..]].concat() };
    vec![poked(a), poked(b)]
}

/// The bytes of a form at an address.
fn placed(form: &Form, va: u64, vars: &[u64]) -> Vec<u8> {
    let mut bytes = form.bytes.clone();
    for field in &form.fields {
        let (pos, value) = match *field {
            Field::Rel32(pos, to) => (pos, to.address(vars).wrapping_sub(va + pos as u64 + 4)),
            Field::Abs32(pos, to) => (pos, to.address(vars)),
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
