// Row 7. VM_CR, where SVM is switched off and locked.
// Source: Blue Pill (Rutkowska 2006); APM 2, 15.30.1.
// Ends: natively ignored: the emulator has no such register; beneath SecVisor refused, register.
#include "common/attack.h"

ATTACK("vm-cr")
{
	struct vulnerable_operation op = { .what = VULNERABLE_WRMSR, .in = { 0xc0010114 } };
	struct vulnerable_operation read = { .what = VULNERABLE_RDMSR, .in = { 0xc0010114 } };
	long error = try_operate(&read);
	u64 before = read.out[0];

	if (error)
		ignored("there is no VM_CR");
	op.in[1] = before ^ 1 << 4;
	if (try_operate(&op))
		refused("the write of %#llx is a general-protection fault", (unsigned long long)op.in[1]);
	if (try_operate(&read) || read.out[0] == before)
		ignored("it stays %#llx, whatever is written", (unsigned long long)before);
	op.in[1] = before;
	try_operate(&op);
	succeeded("it was %#llx and became %#llx", (unsigned long long)before, (unsigned long long)read.out[0]);
}
