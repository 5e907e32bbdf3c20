// Row 5. Code behind the last instruction of the kernel's text, in its last page.
// Source: section edges: what fills up an approved page belongs to it.
// Ends: natively succeeded; beneath SecVisor refused, tampered: the page is put back, and its filler is no code.
#include "common/attack.h"

ATTACK("text-edge-end")
{
	u64 end = symbol("_etext");

	if (PAGE - (end & (PAGE - 1)) < 2 * CODE_LENGTH)
		failed("no room behind %#llx", (unsigned long long)end);
	end += CODE_LENGTH;
	poke_bytes(end, CODE, CODE_LENGTH);
	call_code(end, "the end of the last text page");
}
