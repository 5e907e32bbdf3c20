// Row 2. Code written to the bss of an approved module, NX cleared, called.
// Source: as heap-code.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"

ATTACK("bss-code")
{
	u64 page = operate(VULNERABLE_BSS, 0, 0, 0);

	kwrite(page, CODE, CODE_LENGTH);
	call_code(page, "bss");
}
