// Row 11. The second CPU changes an approved module's text to and fro, without pause, while the first executes it.
// Source: time of check to time of use; Linux's text_poke needs INT3 for the same reason.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/answer.h"

static void change(void *with)
{
	const struct answer *answer = with;
	struct vulnerable_operation op = { .what = VULNERABLE_TOGGLE,
					   .in = { answer->alias, answer->wrong, 0, answer->right, 0, 200 } };

	for (;;)
		if (try_operate(&op))
			return;
}

ATTACK("race-text")
{
	struct answer answer = load_answer();
	u64 calls = call_while(change, &answer, 0);

	// And when the second CPU leaves it changed.
	operate(VULNERABLE_STORE, answer.alias, answer.wrong, 8);
	end_restored(&answer, calls);
}
