// Row 20. SecVisor's memory read through a mapping of its physical address.
// Source: any hypervisor's first duty.
// Ends: natively succeeded; beneath SecVisor refused, hypervisor-memory.
#include "common/attack.h"
#include <stdio.h>
#include <string.h>

ATTACK("hypervisor-read")
{
	u64 window = map_physical(hypervisor(), KERNEL_DATA);

	for (unsigned i = 0; i < 64; i++) {
		u64 value = kread64(window + 64 * i);

		if (value != ~0ull)
			succeeded("word %u is %#llx", i, (unsigned long long)value);
	}
	refused("it reads as ones");
}
