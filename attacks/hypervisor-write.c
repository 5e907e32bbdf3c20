// Row 20. SecVisor's memory written through a mapping of its physical address.
// Source: any hypervisor's first duty.
// Ends: natively succeeded; beneath SecVisor refused, hypervisor-memory.
#include "common/attack.h"
#include <stdio.h>
#include <string.h>

ATTACK("hypervisor-write")
{
	u64 window = map_physical(hypervisor(), KERNEL_DATA), before, after;

	for (unsigned i = 0; i < 128; i++)
		kread64(window);
	before = kread64(window + 8);
	operate(VULNERABLE_STORE, window + 8, before ^ 0x55, 8);
	after = kread64(window + 8);
	if (after == (before ^ 0x55)) {
		operate(VULNERABLE_STORE, window + 8, before, 8);
		succeeded("a word was %#llx and became %#llx", (unsigned long long)before, (unsigned long long)after);
	}
	refused("what is written is gone");
}
