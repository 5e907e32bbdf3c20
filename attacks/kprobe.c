// Row 16. A kprobe within a function of the kernel, by tracefs: a breakpoint, and a slot with copied instructions.
// Source: kprobe-based rootkits (kovid and kin).
// Ends: natively succeeded; beneath SecVisor restored: the breakpoint is no value of the page, and is taken away, tampered.
#include "common/attack.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

ATTACK("kprobe")
{
	char text[4096] = "", probe[128];
	long before = victim();
	int error = EILSEQ;

	mount("trace", "/sys/kernel/tracing", "tracefs", 0, NULL);
	// Behind the function's entry, where kprobes use the function tracer: at the first instruction there.
	for (unsigned offset = 9; error && offset < 24; offset++) {
		snprintf(probe, sizeof(probe), "p:attack/probe " VICTIM "+%u\n", offset);
		error = write_file("/sys/kernel/tracing/kprobe_events", probe);
	}
	if (error)
		failed("no probe is taken: %s", strerror(error));
	about_to("arm a probe");
	if ((error = write_file("/sys/kernel/tracing/events/attack/probe/enable", "1\n")))
		refused("the probe is not armed: %s", strerror(error));
	long after = victim();
	read_file("/sys/kernel/tracing/trace", text, sizeof(text));
	write_file("/sys/kernel/tracing/events/attack/probe/enable", "0\n");
	write_file("/sys/kernel/tracing/kprobe_events", "-:attack/probe\n");
	if (strstr(text, "probe: ("))
		succeeded("the probe was hit");
	if (before == after)
		restored("the probe was not hit, the system call still works");
	failed("the system call returned %ld", after);
}
