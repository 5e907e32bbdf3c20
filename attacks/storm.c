// Row 24. A storm: kernel text written and executed 600 times in turn, a violation each.
// Source: log flooding, write/execute ping-pong.
// Ends: natively flooded; beneath SecVisor restored, tampered.
#include "common/attack.h"

ATTACK("storm")
{
	u64 at = symbol(VICTIM), alias = map_physical(physical(at), KERNEL_DATA), mine = counter(8);
	long before = victim();

	for (int i = 0; i < 600; i++) {
		operate(VULNERABLE_STORE, alias, *(const u64 *)CODE, 8);
		operate(VULNERABLE_STORE, alias + 8, *(const u16 *)(CODE + 8), 2);
		if (victim() != before)
			succeeded("it ran in turn %d", i);
	}
	if (counter(8) - mine < 600)
		failed("only %llu violations", (unsigned long long)(counter(8) - mine));
	restored("600 times");
}
