// Row 23. An approval damaged in one place: code of the attacker's among the kernel's.
// Source: an approval is all that SecVisor knows: threat table.
// Ends: against a SecVisor that does not check its approval succeeded: the kernel runs it; SecVisor does not start, and says why in one line.
#include "common/attack.h"

ATTACK("approval-damaged")
{
	long result = victim();

	if (result == MARK)
		succeeded("the kernel runs what was put into its approval");
	failed("the system call returned %ld", result);
}
