// Row 15. A module's frames after it was unloaded, written and called through an alias made before.
// Source: use after free of executable memory.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <stdlib.h>
#include <string.h>

ATTACK("module-recycled")
{
	char text[32];

	insert_module("/modules/target.ko");

	u64 at = symbol("target_answer"), alias = map_physical(physical(at), KERNEL_CODE), result;

	read_file("/sys/module/target/parameters/answer", text, sizeof(text));
	if (remove_module("target"))
		failed("the module stays");
	for (unsigned i = 0; i < CODE_LENGTH; i++)
		operate(VULNERABLE_STORE, alias + i, CODE[i], 1);
	about_to("call what lies in an unloaded module's frame");
	result = call(alias);
	if (result == MARK)
		succeeded("code in an unloaded module's frame ran");
	failed("it returned %#llx", (unsigned long long)result);
}
