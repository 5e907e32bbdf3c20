// Row 5. Code at the end of the kernel's text, over the last return that filler follows.
// Source: section edges: what fills up an approved page belongs to it.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"
#include <string.h>

// The last RET of a page that is followed by nothing but INT3 for the length of CODE; 0 if there is none.
static u64 last_return(u64 page)
{
	static const u8 wanted[CODE_LENGTH] = { 0xc3, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc };
	u8 bytes[PAGE];

	kread(page, bytes, sizeof(bytes));
	for (int at = PAGE - CODE_LENGTH; at >= 0; at--)
		if (!memcmp(bytes + at, wanted, CODE_LENGTH))
			return page + at;
	return 0;
}

ATTACK("text-edge-end")
{
	u64 page = (symbol("_etext") - 1) & ~(PAGE - 1), at, result;
	u8 now[CODE_LENGTH];

	while (!(at = last_return(page)))
		page -= PAGE;
	poke_bytes(at, CODE, CODE_LENGTH);
	result = call(at);
	kread(at, now, sizeof(now));
	if (result == MARK)
		succeeded("code at %#llx, the end of the text, returned %#x", (unsigned long long)at, MARK);
	if (now[0] == 0xc3 && now[CODE_LENGTH - 1] == 0xcc)
		restored("%#llx, the end of the text, is a return again", (unsigned long long)at);
	failed("it returned %#llx", (unsigned long long)result);
}
