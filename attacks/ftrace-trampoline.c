// Row 16. The function tracer of an instance: its trampoline is for an ftrace_ops in memory that Linux allocates.
// Source: ftrace as a hooking engine (TheXcellerator's series).
// Ends: natively succeeded; beneath SecVisor restored: no such trampoline is approved, so its call is no value of the site, and is taken away, tampered.
#include "common/attack.h"
#include <errno.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define INSTANCE "/sys/kernel/tracing/instances/attack/"

ATTACK("ftrace-trampoline")
{
	static char text[65536];
	long before = victim();
	int error;

	mount("trace", "/sys/kernel/tracing", "tracefs", 0, NULL);
	if (mkdir(INSTANCE, 0700))
		failed("no instance: %s", strerror(errno));
	write_file(INSTANCE "set_ftrace_filter", VICTIM "\n");
	about_to("trace a function");
	if ((error = write_file(INSTANCE "current_tracer", "function\n")))
		refused("no tracer: %s", strerror(error));
	victim();
	read_file(INSTANCE "trace", text, sizeof(text));
	write_file(INSTANCE "current_tracer", "nop\n");
	if (strstr(text, VICTIM " <-"))
		succeeded("the function was traced");
	if (victim() == before)
		restored("the function was not traced, the system call still works");
	failed("the system call is broken");
}
