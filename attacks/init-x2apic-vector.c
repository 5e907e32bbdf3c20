// Row 27. A local vector of delivery mode INIT (the performance counters', masked) by its MSR in x2APIC mode.
// Source: AMD64 APM 2, 16.4.1 and table 16-6.
// Ends: natively succeeded; beneath SecVisor refused, register.
#include "common/attack.h"

#define VECTOR 0x834

ATTACK("init-x2apic-vector")
{
	struct vulnerable_operation op = { .what = VULNERABLE_WRMSR, .in = { VECTOR, 0x10500 } };
	u64 before = operate(VULNERABLE_RDMSR, VECTOR, 0, 0), now;

	if (try_operate(&op))
		refused("the write of %#llx is a general-protection fault", (unsigned long long)op.in[1]);
	now = operate(VULNERABLE_RDMSR, VECTOR, 0, 0);
	operate(VULNERABLE_WRMSR, VECTOR, before, 0);
	if ((now & 0x700) == 0x500)
		succeeded("the vector was %#llx and became %#llx", (unsigned long long)before, (unsigned long long)now);
	failed("the vector stays %#llx", (unsigned long long)now);
}
