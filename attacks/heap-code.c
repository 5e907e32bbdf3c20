// Row 2. Code written to kernel heap, NX cleared, called.
// Source: classic kernel shellcode, e.g. CVE-2016-0728 exploits.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"

ATTACK("heap-code")
{
	u64 page = kernel_page();

	kwrite(page, CODE, CODE_LENGTH);
	call_code(page, "kernel heap");
}
