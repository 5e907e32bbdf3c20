// Row 14. A rootkit as found in the wild, loaded as a module: hooks a system call by its table and its code.
// Source: diamorphine, reptile, suterusu.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ATTACK("rootkit-table")
{
	about_to("load /modules/table_hook.ko");
	insert_module("/modules/table_hook.ko");
	if (victim() != MARK)
		failed("the system call returns %ld", victim());
	remove_module("table_hook");
	succeeded("the rootkit's function answers the system call");
}
