//! Memory types: the same on every CPU (APM 2, 7.7)
//!
//! Firmware sets them on all CPUs, but an INIT may have reset them on those started here, and what the guest writes is
//! refused. So the first CPU's are copied.
use core::arch::asm;

use secvisor_amd64::{msr, reg};

use super::instr;
use crate::mem::once::SetOnce;

/// Variable ranges copied, at most.
const RANGES: usize = 16;
const FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];

struct Types {
    default: u64,
    fixed: [u64; FIXED.len()],
    variable: [u64; 2 * RANGES],
}

static FIRST: SetOnce<Types> = SetOnce::new();

/// Registers of the variable ranges this processor has.
fn variable() -> impl Iterator<Item = u32> {
    // SAFETY: every processor with SVM has MTRRs.
    let ranges = unsafe { instr::rdmsr(msr::MTRR_CAP) } as u32 & 0xff;
    (0..2 * ranges.min(RANGES as u32)).map(|i| msr::MTRR_BASE_0 + i)
}

/// Notes the first CPU's.
pub fn note() {
    let mut types = Types { default: 0, fixed: [0; FIXED.len()], variable: [0; 2 * RANGES] };
    // SAFETY: as above; `variable` counts those there are.
    unsafe {
        types.default = instr::rdmsr(msr::MTRR_DEF_TYPE);
        types.fixed.iter_mut().zip(FIXED).for_each(|(value, register)| *value = instr::rdmsr(register));
        types.variable.iter_mut().zip(variable()).for_each(|(value, register)| *value = instr::rdmsr(register));
    }
    FIRST.set(types);
}

/// Gives this CPU the first one's, with caches off meanwhile (APM 2, 7.7.5).
pub fn copy() {
    let Some(types) = FIRST.get() else { return };
    let registers = || variable().zip(types.variable).chain(FIXED.into_iter().zip(types.fixed));
    // SAFETY: the processor has these registers and the values are those of another of its kind; no memory changes, and
    // caches are written back before their types change.
    unsafe {
        let same = |(register, value): (u32, u64)| instr::rdmsr(register) == value;
        if registers().chain([(msr::MTRR_DEF_TYPE, types.default)]).all(same) {
            return;
        }
        let cr0: u64;
        asm!("mov {}, cr0", out(reg) cr0, options(nomem, nostack, preserves_flags));
        asm!("mov cr0, {}", in(reg) cr0 | reg::CR0_CD, options(nostack, preserves_flags));
        instr::wbinvd();
        instr::wrmsr(msr::MTRR_DEF_TYPE, 0);
        registers().for_each(|(register, value)| instr::wrmsr(register, value));
        instr::wrmsr(msr::MTRR_DEF_TYPE, types.default);
        instr::wbinvd();
        asm!("mov cr0, {}", in(reg) cr0, options(nostack, preserves_flags));
    }
}
