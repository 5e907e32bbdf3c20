// Row 20. SecVisor's memory executed in the guest's kernel mode.
// Source: any hypervisor's first duty.
// Ends: natively succeeded; beneath SecVisor refused, hypervisor-memory.
#include "common/attack.h"
#include <stdio.h>
#include <string.h>

ATTACK("hypervisor-execute")
{
	u64 window = map_physical(hypervisor(), KERNEL_CODE), before[2] = { kread64(window), kread64(window + 8) }, result;

	operate(VULNERABLE_STORE, window, *(const u64 *)CODE, 8);
	operate(VULNERABLE_STORE, window + 8, *(const u16 *)(CODE + 8), 2);
	about_to("execute what lies in SecVisor's memory");
	result = call(window);
	operate(VULNERABLE_STORE, window, before[0], 8);
	operate(VULNERABLE_STORE, window + 8, before[1], 8);
	if (result == MARK)
		succeeded("code in SecVisor's memory ran in the guest");
	failed("it returned %#llx", (unsigned long long)result);
}
