// Row 2. Code written to vmalloc space, NX cleared, called.
// Source: as heap-code.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"

ATTACK("vmalloc-code")
{
	u64 page = operate(VULNERABLE_VMALLOC, PAGE, 0, 0);

	kwrite(page, CODE, CODE_LENGTH);
	call_code(page, "vmalloc space");
}
