//! Hypercalls with wild numbers, from user mode.

use std::arch::asm;

/// "SVC" and the number of the function: 0, status. The only one there is.
const STATUS: u64 = 0x5356_4300;

/// Indices between the counters: behind those of the exits, and between those of shoot-downs and the kept violations.
const GAPS: [std::ops::Range<u64>; 2] = [28..32, 34..256];

/// Where the exits' counters start.
const FIRST_EXIT: u64 = 16;

/// More exits than there are reasons for.
const PAST_EXITS: u64 = FIRST_EXIT + 64;

/// RDX, RSI and R8 to R15 before and after a hypercall.
type Others = [u64; 10];

/// Makes so many calls. Tells how many were answered, how many were answered with all ones, how many changed another
/// register, and whether the violations' counter moved.
pub fn wild(times: u64) -> String {
    let (mut answered, mut refused, mut changed) = (0, 0, 0);
    let violations = call(STATUS, 8, [0; 10]).0;
    let mut random = 0x9e37_79b9_7f4a_7c15;
    let mut next = move || {
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for number in 0..times {
        let (function, index) = match number % 4 {
            // Neighbours of the one function, all of the one's indices behind the last, and anything.
            0 => (STATUS ^ (1 << (next() % 64)), next() % 32),
            1 => (STATUS, (1 << (next() % 57 + 7)) | (next() % 128)),
            2 => (STATUS, PAST_EXITS + number),
            _ => (next(), next()),
        };
        let others: Others = std::array::from_fn(|_| next());
        let (result, after) = call(function, index, others);
        if result == u64::MAX {
            refused += 1;
        } else {
            answered += 1;
        }
        if others != after {
            changed += 1;
        }
    }
    let gaps = GAPS.into_iter().flatten().filter(|&index| call(STATUS, index, [0; 10]).0 != u64::MAX).count();
    let moved = call(STATUS, 8, [0; 10]).0 != violations;
    format!("refused={refused} answered={answered} changed={changed} gaps={gaps} violations-moved={}", u8::from(moved))
}

fn call(function: u64, index: u64, others: Others) -> (u64, Others) {
    let (mut rax, mut after) = (function, others);
    let [rdx, rsi, r8, r9, r10, r11, r12, r13, r14, r15] = &mut after;
    // SAFETY: VMMCALL takes its arguments in RAX and RDI and gives its result in RAX. If SecVisor changed another register,
    // it is one of those that are compared.
    unsafe {
        asm!("vmmcall", inlateout("rax") rax, in("rdi") index, inlateout("rdx") *rdx, inlateout("rsi") *rsi,
            inlateout("r8") *r8, inlateout("r9") *r9, inlateout("r10") *r10, inlateout("r11") *r11,
            inlateout("r12") *r12, inlateout("r13") *r13, inlateout("r14") *r14, inlateout("r15") *r15,
            options(nostack));
    }
    (rax, after)
}
