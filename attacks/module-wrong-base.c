// Row 14. The text page of an approved module copied to another place in the modules' range and called there.
// Source: code-reuse by relocation; threat table.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <stdlib.h>
#include <string.h>

ATTACK("module-wrong-base")
{
	char text[32];

	insert_module("/modules/target.ko");

	u64 at = symbol("target_answer"), copy = operate(VULNERABLE_BSS, 0, 0, 0);
	u8 page[PAGE];
	u64 result;

	read_file("/sys/module/target/parameters/answer", text, sizeof(text));
	kread(at & ~(PAGE - 1), page, PAGE);
	kwrite(copy, page, PAGE);
	make_executable(copy);
	about_to("call a module's code in another place");
	result = call(copy + (at & (PAGE - 1)));
	if (result == 42)
		succeeded("the module's code ran in another place");
	failed("it returned %#llx", (unsigned long long)result);
}
