// Row 7. EFER.SVME set, the first step to a hypervisor of the attacker's.
// Source: Blue Pill (Rutkowska 2006).
// Ends: natively succeeded; beneath SecVisor refused, register.
#include "common/attack.h"

ATTACK("efer-svme")
{
	struct vulnerable_operation op = { .what = VULNERABLE_WRMSR, .in = { 0xc0000080 } };
	u64 before = operate(VULNERABLE_RDMSR, 0xc0000080, 0, 0), now;

	undo_msr(0xc0000080);
	op.in[1] = before | 1ull << 12;
	if (try_operate(&op))
		refused("the write of %#llx is a general-protection fault", (unsigned long long)op.in[1]);
	now = operate(VULNERABLE_RDMSR, 0xc0000080, 0, 0);
	if (now == op.in[1] && now != before)
		succeeded("%#x was %#llx and is %#llx", (unsigned)0xc0000080, (unsigned long long)before, (unsigned long long)now);
	failed("%#x was %#llx, written %#llx, is %#llx", (unsigned)0xc0000080, (unsigned long long)before,
	       (unsigned long long)op.in[1], (unsigned long long)now);
}
