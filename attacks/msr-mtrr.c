// Row 26. A variable MTRR changed: memory types, and with them what the caches hold.
// Source: APM 2, 7.7 to 7.9: memory-type and address-map registers.
// Ends: natively succeeded; beneath SecVisor refused, register.
#include "common/attack.h"

ATTACK("msr-mtrr")
{
	struct vulnerable_operation op = { .what = VULNERABLE_WRMSR, .in = { 0x200 } };
	u64 before = operate(VULNERABLE_RDMSR, 0x200, 0, 0), now;

	undo_msr(0x200);
	op.in[1] = 0x06;
	if (try_operate(&op))
		refused("the write of %#llx is a general-protection fault", (unsigned long long)op.in[1]);
	now = operate(VULNERABLE_RDMSR, 0x200, 0, 0);
	if (now == op.in[1] && now != before)
		succeeded("%#x was %#llx and is %#llx", (unsigned)0x200, (unsigned long long)before, (unsigned long long)now);
	if (now == before)
		ignored("%#x stays %#llx, whatever is written", (unsigned)0x200, (unsigned long long)before);
	failed("%#x was %#llx, written %#llx, is %#llx", (unsigned)0x200, (unsigned long long)before,
	       (unsigned long long)op.in[1], (unsigned long long)now);
}
