// Row 5. Code in the kernel's read-only data, whose huge mapping follows that of the text, NX cleared.
// Source: huge-page edges: a frame next to approved ones must not inherit their rights.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"

ATTACK("rodata-code")
{
	u64 at = symbol("linux_banner");

	poke_bytes(at, CODE, CODE_LENGTH);
	call_code(at, "read-only data");
}
