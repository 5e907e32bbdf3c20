// Row 26. SYSCFG: extended MTRR attributes, memory encryption.
// Source: APM 2, 7.7 to 7.9: memory-type and address-map registers.
// Ends: natively ignored, QEMU has no such register; beneath SecVisor refused, register.
#include "common/attack.h"

ATTACK("msr-syscfg")
{
	struct vulnerable_operation op = { .what = VULNERABLE_WRMSR, .in = { 0xc0010010 } };
	u64 before = operate(VULNERABLE_RDMSR, 0xc0010010, 0, 0), now;

	undo_msr(0xc0010010);
	op.in[1] = before ^ (1ull << 19);
	if (try_operate(&op))
		refused("the write of %#llx is a general-protection fault", (unsigned long long)op.in[1]);
	now = operate(VULNERABLE_RDMSR, 0xc0010010, 0, 0);
	if (now == op.in[1] && now != before)
		succeeded("%#x was %#llx and is %#llx", (unsigned)0xc0010010, (unsigned long long)before, (unsigned long long)now);
	if (now == before)
		ignored("%#x stays %#llx, whatever is written", (unsigned)0xc0010010, (unsigned long long)before);
	failed("%#x was %#llx, written %#llx, is %#llx", (unsigned)0xc0010010, (unsigned long long)before,
	       (unsigned long long)op.in[1], (unsigned long long)now);
}
