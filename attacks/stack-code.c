// Row 2. Code on the kernel's stack, NX cleared, called where it lies.
// Source: as heap-code.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <string.h>

ATTACK("stack-code")
{
	struct vulnerable_operation op = { .what = VULNERABLE_CALL_STACK };

	memcpy(op.in, CODE, CODE_LENGTH);
	about_to("call code on the kernel stack");
	if (try_operate(&op))
		failed("the module said no");
	if (op.out[0] == MARK)
		succeeded("code on the kernel stack ran and returned %#x", MARK);
	failed("the call returned %#llx", (unsigned long long)op.out[0]);
}
