#include "answer.h"
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct answer load_answer(void)
{
	static const u8 result[] = { 0xb8, 42, 0, 0, 0 }; // mov $42, %eax
	u64 at, word, right;

	insert_module("/modules/target.ko");
	at = find_bytes(symbol("target_answer"), 48, result, sizeof(result)) + 1;
	word = at & ~7ull;
	right = kread64(word);
	keep_bytes(word, 8);
	return (struct answer){
		.function = symbol("target_answer"),
		.alias = map_physical(physical(word), KERNEL_DATA),
		.right = right,
		.wrong = right ^ (u64)(42 ^ 55) << 8 * (at & 7),
	};
}

u64 call_while(void (*writes)(void *), const struct answer *answer, unsigned microseconds)
{
	u64 result = 42, calls = 0;
	int child = on_second_cpu(writes, (void *)answer);
	time_t start;

	usleep(microseconds);
	for (start = time(NULL); result == 42 && time(NULL) - start < 8; calls++)
		result = call(answer->function);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	if (result == 55)
		succeeded("after %llu calls the function returned what the second CPU had written", (unsigned long long)calls);
	if (result != 42)
		failed("it returned %llu", (unsigned long long)result);
	return calls;
}

void end_restored(const struct answer *answer, u64 calls)
{
	u64 result = call(answer->function);

	if (result == 42 && kread64(answer->alias) == answer->right)
		restored("%llu calls and a last one returned 42", (unsigned long long)calls);
	failed("it returned %llu", (unsigned long long)result);
}
