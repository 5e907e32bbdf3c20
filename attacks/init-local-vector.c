// Row 27. A local vector of delivery mode INIT (the performance counters', masked).
// Source: AMD64 APM 2, 16.4.1.
// Ends: natively succeeded; beneath SecVisor refused, apic.
#include "common/attack.h"

ATTACK("init-local-vector")
{
	u64 vector = map_physical(0xfee00340, KERNEL_DATA | 0x18), value = 0x10500;
	u32 before, now;

	before = operate(VULNERABLE_LOAD, vector, 0, 0);
	operate(VULNERABLE_STORE, vector, value, 4);
	now = operate(VULNERABLE_LOAD, vector, 0, 0);
	operate(VULNERABLE_STORE, vector, before, 4);
	if ((now & 0x700) == 0x500)
		succeeded("the vector was %#x and became %#x", before, now);
	refused("the vector stays %#x", now);
}
