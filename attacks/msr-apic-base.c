// Row 26. APIC base moved over RAM.
// Source: the memory sinkhole (Domas 2015).
// Ends: natively succeeded; beneath SecVisor refused, register.
#include "common/attack.h"

ATTACK("msr-apic-base")
{
	struct vulnerable_operation op = { .what = VULNERABLE_WRMSR, .in = { 0x1b } };
	u64 before = operate(VULNERABLE_RDMSR, 0x1b, 0, 0), now;

	undo_msr(0x1b);
	op.in[1] = (before & 0xfff) | 0x1000000;
	if (try_operate(&op))
		refused("the write of %#llx is a general-protection fault", (unsigned long long)op.in[1]);
	now = operate(VULNERABLE_RDMSR, 0x1b, 0, 0);
	if (now == op.in[1] && now != before)
		succeeded("%#x was %#llx and is %#llx", (unsigned)0x1b, (unsigned long long)before, (unsigned long long)now);
	if (now == before)
		ignored("%#x stays %#llx, whatever is written", (unsigned)0x1b, (unsigned long long)before);
	failed("%#x was %#llx, written %#llx, is %#llx", (unsigned)0x1b, (unsigned long long)before,
	       (unsigned long long)op.in[1], (unsigned long long)now);
}
