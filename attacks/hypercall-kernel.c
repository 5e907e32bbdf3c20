// Row 22. Hypercalls with wild and overlapping arguments from kernel mode: kernel addresses, SecVisor's own, lengths that wrap; none may answer, write or change a register.
// Source: threat table; confused deputies behind hypercall interfaces.
// Ends: against a SecVisor without bounds succeeded; beneath SecVisor refused.
#include "common/attack.h"
#include <string.h>

ATTACK("hypercall-kernel")
{
	u64 bss = operate(VULNERABLE_BSS, 0, 0, 0), hidden = hypervisor();
	const u64 wild[] = { bss, physical(bss), bss - 8, hidden, hidden + 8, direct(hidden), ~0ull - 7, 1ull << 63, 4095, 255 };
	const unsigned count = sizeof(wild) / sizeof(*wild);
	u8 before[512], after[512];

	kread(bss, before, sizeof(before));
	for (unsigned i = 0; i < count * count; i++) {
		u64 a = wild[i / count], b = wild[i % count];
		// The one there is, with a wild index; others; a pointer as the number itself.
		const u64 numbers[] = { 0x53564300, 0x53564301, 0x53564300ull | 1ull << 32, a };

		for (unsigned n = 0; n < sizeof(numbers) / sizeof(*numbers); n++) {
			struct vulnerable_operation op = { VULNERABLE_HYPERCALL, { numbers[n], a, b, b, a, ~0ull }, { 0 } };

			if (try_operate(&op))
				failed("no hypercall");
			if (op.out[0] != ~0ull)
				succeeded("%#llx of %#llx answers %#llx", (unsigned long long)numbers[n],
					  (unsigned long long)a, (unsigned long long)op.out[0]);
			if (op.out[1])
				succeeded("%#llx changes a register", (unsigned long long)numbers[n]);
		}
	}
	kread(bss, after, sizeof(after));
	if (memcmp(before, after, sizeof(before)))
		succeeded("memory changed");
	refused("every one answers with ones");
}
