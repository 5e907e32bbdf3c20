// Row 16. A livepatch, by a module that is approved: a system call is replaced through a trampoline made at run time.
// Source: livepatch as a hooking engine.
// Ends: natively succeeded; beneath SecVisor restored: the call of the trampoline is no value of the site, tampered.
#include "common/attack.h"
#include <unistd.h>

ATTACK("livepatch")
{
	long before = victim(), after = before;

	about_to("load a livepatch");
	insert_module("/modules/livepatch.ko");
	for (int i = 0; i < 30 && after == before; i++) {
		usleep(100000);
		after = victim();
	}
	if (after == MARK)
		succeeded("the system call is the livepatch's");
	if (after == before)
		restored("the system call still returns %ld", before);
	failed("the system call returned %ld", after);
}
