// Row 5. Code in kernel heap under a 2 MiB mapping in the modules' range.
// Source: huge mappings where only small ones are expected.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"

ATTACK("modules-huge")
{
	// The last 2 MiB of the modules' range that the kernel's own table maps.
	u64 at = 0xffffffffbfe00000, page = kernel_page(), frame = physical(page), entry = entry_at(at, 21), result;

	if (kread64(entry) & PRESENT)
		failed("something is there");
	kwrite(page, CODE, CODE_LENGTH);
	poke(entry, (frame & ~0x1fffffull) | LARGE | KERNEL_CODE);
	flush(0);
	about_to("call code by a huge mapping in the modules' range");
	result = call(at + (frame & 0x1fffff));
	if (result == MARK)
		succeeded("code under a huge mapping in the modules' range ran");
	failed("it returned %#llx", (unsigned long long)result);
}
