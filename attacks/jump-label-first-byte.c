// Row 12. A jump label set to what its table does not allow: the first byte only.
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

ATTACK("jump-label-first-byte")
{
	char text[32];

	insert_module("/modules/target.ko");

	read_file("/sys/module/target/parameters/jump", text, sizeof(text));
	if (strcmp(text, "42\n"))
		failed("the module is not as it was: %s", text);
	// The site follows the store of 1337h.
	u64 at = find(symbol("target_jump"), (const u8 *)"\x37\x13\0\0", (const u8 *)"\xff\xff\xff\xff", 4) + 4;

	kwrite(at, "\xc3", 1);
	read_file("/sys/module/target/parameters/jump", text, sizeof(text));
	if (!strcmp(text, "4919\n"))
		succeeded("the first byte of a jump label made RET: it reads 4919 instead of 42");
	if (!strcmp(text, "42\n"))
		restored("the first byte of a jump label made RET: it still reads 42");
	failed("it reads %s", text);
}
