// Row 19. CLGI in the guest's kernel mode: SVM used beneath its owner.
// Source: Blue Pill (Rutkowska 2006); nested-SVM escapes.
// Ends: natively succeeded; beneath SecVisor refused, instruction.
#include "common/attack.h"

ATTACK("svm-clgi")
{
	u64 page = 0;

	struct vulnerable_operation op = { .what = VULNERABLE_SVM, .in = { 0xdd, page } };
	about_to("execute CLGI");
	if (try_operate(&op))
		failed("the module said no");
	if (op.out[0])
		refused("it raises exception %llu", (unsigned long long)op.out[0] - 1);
	succeeded("it was executed");
}
