// Row 5. Code in the page right behind the kernel's text, which shares its 2 MiB mapping, NX cleared.
// Source: huge-page edges: a frame next to approved ones must not inherit their rights.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"

ATTACK("text-edge")
{
	u64 page = (symbol("_etext") + PAGE - 1) & ~(PAGE - 1);

	poke_bytes(page, CODE, CODE_LENGTH);
	call_code(page, "the page behind the kernel's text");
}
