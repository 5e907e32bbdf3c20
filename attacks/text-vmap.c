// Row 3. Kernel text written through a fresh writable alias (vmap).
// Source: text_poke-like rootkits, e.g. suterusu.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"

ATTACK("text-vmap")
{
	u64 at = symbol(VICTIM);
	u8 approved[CODE_LENGTH];
	long before = victim();

	kread(at, approved, sizeof(approved));
	keep_bytes(at, sizeof(approved));
	kwrite(at, CODE, CODE_LENGTH);
	judge_victim(before, approved, "through vmap");
}
