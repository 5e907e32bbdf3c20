// Row 19. VMLOAD in the guest's kernel mode: SVM used beneath its owner.
// Source: Blue Pill (Rutkowska 2006); nested-SVM escapes.
// Ends: natively succeeded; beneath SecVisor refused, instruction.
#include "common/attack.h"

ATTACK("svm-vmload")
{
	// A page of ours: what the processor writes there, or reads.
	u64 page = physical(kernel_page());

	struct vulnerable_operation op = { .what = VULNERABLE_SVM, .in = { 0xda, page } };

	// State that VMLOAD would load: it must be what is there.
	struct vulnerable_operation save = { .what = VULNERABLE_SVM, .in = { 0xdb, page } };
	if (try_operate(&save) || save.out[0])
		refused("VMSAVE raises exception %llu", (unsigned long long)save.out[0] - 1);
	about_to("execute VMLOAD");
	if (try_operate(&op))
		failed("the module said no");
	if (op.out[0])
		refused("it raises exception %llu", (unsigned long long)op.out[0] - 1);
	succeeded("it was executed");
}
