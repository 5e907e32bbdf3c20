// Row 14. A rootkit as found in the wild, loaded as a module: hooks a system call by an ftrace callback.
// Source: TheXcellerator's rootkit series, brokepkg.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ATTACK("rootkit-ftrace")
{
	about_to("load /modules/ftrace_hook.ko");
	insert_module("/modules/ftrace_hook.ko");
	if (victim() != MARK)
		failed("the system call returns %ld", victim());
	remove_module("ftrace_hook");
	succeeded("the rootkit's function answers the system call");
}
