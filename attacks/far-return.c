// Row 9. A far return with the kernel's code segment into a user page.
// Source: privilege-return gadgets.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <string.h>

ATTACK("far-return")
{
	// mov eax, 0x1337; jmp rcx
	u8 *page = user_page();
	u64 result;

	memcpy(page, "\xb8\x37\x13\0\0\xff\xe1", 7);
	make_executable((u64)page);
	about_to("return far to a user page");
	unprotect();
	result = operate(VULNERABLE_FAR_RETURN, (u64)page, 0x10, 0);
	if (result == MARK)
		succeeded("a far return to a user page ran it at CPL 0");
	failed("RAX was %#llx", (unsigned long long)result);
}
