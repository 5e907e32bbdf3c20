// Row 16. The function tracer: every site of ftrace may call, some a trampoline made at run time.
// Source: ftrace as a hooking engine (TheXcellerator's series).
// Ends: natively succeeded; beneath SecVisor restored: the call of a trampoline is no value of the site, and is taken away, tampered.
#include "common/attack.h"
#include <errno.h>
#include <string.h>
#include <sys/mount.h>

ATTACK("ftrace-trampoline")
{
	static char text[65536];
	long before = victim();
	int error;

	mount("trace", "/sys/kernel/tracing", "tracefs", 0, NULL);
	write_file("/sys/kernel/tracing/set_ftrace_filter", VICTIM "\n");
	about_to("trace a function");
	if ((error = write_file("/sys/kernel/tracing/current_tracer", "function\n")))
		refused("no tracer: %s", strerror(error));
	victim();
	read_file("/sys/kernel/tracing/trace", text, sizeof(text));
	write_file("/sys/kernel/tracing/current_tracer", "nop\n");
	if (strstr(text, VICTIM " <-"))
		succeeded("the function was traced");
	if (victim() == before)
		restored("the function was not traced, the system call still works");
	failed("the system call is broken");
}
