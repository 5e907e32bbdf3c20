// Row 5. Code in the frame right before the kernel's text, called by the direct map.
// Source: huge-page edges: a frame next to approved ones must not inherit their rights.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"

ATTACK("text-edge-before")
{
	u64 page = direct(physical(symbol("_text")) - PAGE);

	poke_bytes(page, CODE, CODE_LENGTH);
	call_code(page, "the page before the kernel's text");
}
