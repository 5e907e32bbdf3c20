// Row 7. VM_HSAVE_PA, where VMRUN saves host state.
// Source: Blue Pill (Rutkowska 2006).
// Ends: natively succeeded; beneath SecVisor refused, register.
#include "common/attack.h"

ATTACK("vm-hsave")
{
	struct vulnerable_operation op = { .what = VULNERABLE_WRMSR, .in = { 0xc0010117 } };
	u64 before = operate(VULNERABLE_RDMSR, 0xc0010117, 0, 0), now;

	undo_msr(0xc0010117);
	op.in[1] = 0x1000000;
	if (try_operate(&op))
		refused("the write of %#llx is a general-protection fault", (unsigned long long)op.in[1]);
	now = operate(VULNERABLE_RDMSR, 0xc0010117, 0, 0);
	if (now == op.in[1] && now != before)
		succeeded("%#x was %#llx and is %#llx", (unsigned)0xc0010117, (unsigned long long)before, (unsigned long long)now);
	failed("%#x was %#llx, written %#llx, is %#llx", (unsigned)0xc0010117, (unsigned long long)before,
	       (unsigned long long)op.in[1], (unsigned long long)now);
}
