// Row 26. The host bridge's ECAM base (PCIEXBAR) by CF8h/CFCh: configuration space moved to another address, over RAM if one likes.
// Source: Q35 datasheet, 5.1.16.
// Ends: natively succeeded; beneath SecVisor refused, port.
#include "common/attack.h"

static u64 config(u8 offset)
{
	operate(VULNERABLE_OUT, 0xcf8, 4, 0x80000000u | (offset & 0xfc));
	return operate(VULNERABLE_IN, 0xcfc + (offset & 3), 1, 0);
}

static void set_config(u8 offset, u8 value)
{
	operate(VULNERABLE_OUT, 0xcf8, 4, 0x80000000u | (offset & 0xfc));
	operate(VULNERABLE_OUT, 0xcfc + (offset & 3), 1, value);
}

ATTACK("ecam-port")
{
	u64 window = map_physical(0xc0000000, KERNEL_DATA | 0x18), was = kread64(window), now;
	u8 before = config(0x63), identity[2] = { config(0), config(1) };

	// The highest byte of the address: B0000000h becomes C0000000h.
	set_config(0x63, 0xc0);
	now = kread64(window);
	set_config(0x63, before);
	if (now != was && (now & 0xff) == identity[0] && (now >> 8 & 0xff) == identity[1])
		succeeded("configuration space is at C0000000h: %#llx", (unsigned long long)now);
	refused("C0000000h stays %#llx", (unsigned long long)now);
}
