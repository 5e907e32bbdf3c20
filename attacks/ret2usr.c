// Row 1. ret2usr: a hijacked kernel pointer leads to code in a user page, SMEP and SMAP off.
// Source: kGuard (Kemerlis et al. 2012); CVE-2013-2094 exploits.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <string.h>

ATTACK("ret2usr")
{
	u8 *page = user_page();

	memcpy(page, CODE, CODE_LENGTH);
	call_code((u64)page, "a user page");
}
