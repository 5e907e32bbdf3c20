// Row 26. SMM_BASE: where SMI code is.
// Source: SMM rootkits (Embleton et al. 2008).
// Ends: natively ignored, QEMU has no such register; beneath SecVisor refused, register.
#include "common/attack.h"

ATTACK("msr-smm-base")
{
	struct vulnerable_operation op = { .what = VULNERABLE_WRMSR, .in = { 0xc0010111 } };
	u64 before = operate(VULNERABLE_RDMSR, 0xc0010111, 0, 0), now;

	undo_msr(0xc0010111);
	op.in[1] = 0x30000;
	if (try_operate(&op))
		refused("the write of %#llx is a general-protection fault", (unsigned long long)op.in[1]);
	now = operate(VULNERABLE_RDMSR, 0xc0010111, 0, 0);
	if (now == op.in[1] && now != before)
		succeeded("%#x was %#llx and is %#llx", (unsigned)0xc0010111, (unsigned long long)before, (unsigned long long)now);
	if (now == before)
		ignored("%#x stays %#llx, whatever is written", (unsigned)0xc0010111, (unsigned long long)before);
	failed("%#x was %#llx, written %#llx, is %#llx", (unsigned)0xc0010111, (unsigned long long)before,
	       (unsigned long long)op.in[1], (unsigned long long)now);
}
