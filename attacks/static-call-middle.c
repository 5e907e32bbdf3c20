// Row 12. A static call's site set to an address inside an approved function, not its beginning.
// Source: text_poke sites as data of the attacker's choosing; the patching interfaces trust their tables.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"
#include <stdlib.h>
#include <string.h>

// Where a pattern is in a function; ff in the mask means that the byte counts.
static u64 find(u64 function, const u8 *pattern, const u8 *mask, size_t length)
{
	u8 code[256];

	kread(function, code, sizeof(code));
	for (size_t at = 0; at + length <= sizeof(code); at++) {
		size_t i = 0;

		while (i < length && (code[at + i] & mask[i]) == (pattern[i] & mask[i]))
			i++;
		if (i == length)
			return function + at;
	}
	failed("no such site");
}

ATTACK("static-call-middle")
{
	char text[32];

	insert_module("/modules/target.ko");

	read_file("/sys/module/target/parameters/called", text, sizeof(text));
	if (strcmp(text, "1\n"))
		failed("the module is not as it was: %s", text);
	u64 function = symbol("target_called");
	// CALL by a static call's site: the only one that is not the call of __fentry__.
	u64 at = find(function + 5, (const u8 *)"\xe8", (const u8 *)"\xff", 1);
	s32 relative = symbol("target_two") + 5 - (at + 5);

	kwrite(at + 1, &relative, 4);
	read_file("/sys/module/target/parameters/called", text, sizeof(text));
	if (!strcmp(text, "4919\n"))
		succeeded("a static call made to lead into the middle of a function: it reads 4919 instead of 1");
	if (!strcmp(text, "1\n"))
		restored("a static call made to lead into the middle of a function: it still reads 1");
	failed("it reads %s", text);
}
