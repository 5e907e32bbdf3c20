// Row 26. MTRRs switched off.
// Source: APM 2, 7.7 to 7.9: memory-type and address-map registers.
// Ends: natively succeeded; beneath SecVisor ignored: the write is dropped.
#include "common/attack.h"

ATTACK("msr-mtrr-default")
{
	struct vulnerable_operation op = { .what = VULNERABLE_WRMSR, .in = { 0x2ff } };
	u64 before = operate(VULNERABLE_RDMSR, 0x2ff, 0, 0), now;

	undo_msr(0x2ff);
	op.in[1] = before ^ 0x800;
	if (try_operate(&op))
		refused("the write of %#llx is a general-protection fault", (unsigned long long)op.in[1]);
	now = operate(VULNERABLE_RDMSR, 0x2ff, 0, 0);
	if (now == op.in[1] && now != before)
		succeeded("%#x was %#llx and is %#llx", (unsigned)0x2ff, (unsigned long long)before, (unsigned long long)now);
	if (now == before)
		ignored("%#x stays %#llx, whatever is written", (unsigned)0x2ff, (unsigned long long)before);
	failed("%#x was %#llx, written %#llx, is %#llx", (unsigned)0x2ff, (unsigned long long)before,
	       (unsigned long long)op.in[1], (unsigned long long)now);
}
