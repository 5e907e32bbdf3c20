// Row 7. CR4.UMIP cleared: user programs read the descriptor tables' registers.
// Source: kernel address leaks by SGDT.
// Ends: natively succeeded; beneath SecVisor harmless: in user mode the table's limit is 0, whatever its address, and nothing rests on that.
#include "common/attack.h"

#define UMIP (1ull << 11)

ATTACK("cr4-umip")
{
	struct vulnerable_operation op = { .what = VULNERABLE_RDCR, .in = { 4 } };
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) before, after;
	u64 base = tables().gdt;

	if (try_operate(&op) || !(op.out[0] & UMIP))
		failed("UMIP is off: CR4 is %#llx", (unsigned long long)op.out[0]);
	__asm__ volatile("sgdt %0" : "=m"(before));
	operate(VULNERABLE_WRCR, 4, op.out[0] & ~UMIP, 0);
	__asm__ volatile("sgdt %0" : "=m"(after));
	if (before.base == base)
		failed("UMIP hides nothing");
	if (after.base == base && after.limit)
		succeeded("a user program reads the GDT's address %#llx and limit %#x", (unsigned long long)after.base,
			  after.limit);
	if (!after.limit)
		harmless("a user program reads a GDT of no length");
	failed("it reads %#llx", (unsigned long long)after.base);
}
