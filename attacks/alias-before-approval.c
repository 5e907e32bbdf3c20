// Row 5. Writable alias made before approval: the frame of a module's text is mapped before any of it has run, and written through that mapping after.
// Source: Franklin et al. 2008 (SecVisor's own model checking).
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"
#include <stdlib.h>
#include <string.h>

ATTACK("alias-before-approval")
{
	char text[32];

	insert_module("/modules/target.ko");

	u64 at = symbol("target_answer"), alias = map_physical(physical(at), KERNEL_DATA);

	// The alias has been used before, so that its translation is known.
	operate(VULNERABLE_STORE, alias, kread64(alias), 8);
	read_file("/sys/module/target/parameters/answer", text, sizeof(text));
	if (atoi(text) != 42)
		failed("the module is not as it was");
	operate(VULNERABLE_STORE, alias, *(const u64 *)CODE, 8);
	operate(VULNERABLE_STORE, alias + 8, *(const u16 *)(CODE + 8), 2);
	read_file("/sys/module/target/parameters/answer", text, sizeof(text));
	if (atoi(text) == MARK)
		succeeded("what was written through the older alias ran");
	if (atoi(text) == 42)
		restored("the module still returns 42");
	failed("it returned %s", text);
}
