//! Random numbers of the processor's: APM 3, RDSEED and RDRAND
use core::arch::asm;

use super::instr;

/// How often an instruction is tried: RDSEED may have none for a while.
const TRIES: usize = 1000;

/// A random number; none if the processor has no source. The time-stamp counter is mixed in, so that a source that is
/// bad without saying so is not all there is.
pub fn draw() -> Option<u64> {
    let [max_leaf, ..] = instr::cpuid(0, 0);
    let has_seed = max_leaf >= 7 && instr::cpuid(7, 0)[1] & 1 << 18 != 0;
    let has_random = instr::cpuid(1, 0)[2] & 1 << 30 != 0;
    let tried = |has: bool, source: fn() -> Option<u64>| (0..TRIES).filter(|_| has).find_map(|_| source());
    let value = tried(has_seed, rdseed).or_else(|| tried(has_random, rdrand))?;
    Some(value ^ instr::rdtsc().wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// What failing processors give although they say that it is random.
fn plausible(value: u64, carry: u8) -> Option<u64> {
    (carry != 0 && value != 0 && value != u64::MAX).then_some(value)
}

fn rdseed() -> Option<u64> {
    let (value, carry): (u64, u8);
    // SAFETY: the processor has the instruction; it changes one register and flags.
    unsafe { asm!("rdseed {}", "setc {}", out(reg) value, out(reg_byte) carry, options(nomem, nostack)) };
    plausible(value, carry)
}

fn rdrand() -> Option<u64> {
    let (value, carry): (u64, u8);
    // SAFETY: as above.
    unsafe { asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) carry, options(nomem, nostack)) };
    plausible(value, carry)
}
