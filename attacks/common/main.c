// Runs attacks one after the other, each in a process of its own, and tells the kernel's log how each ended:
// `attack: name=<name> result=<word> detail=<text>`. Afterwards the system must still fork, exec and write files.

#include "attack.h"
#include "undo.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define LIMIT_SECONDS 60
#define PROGRAMS 10

extern const struct attack *const __start_attacks[], *const __stop_attacks[];

static int kmsg;

__attribute__((format(printf, 1, 2))) static void tell(const char *format, ...)
{
	char text[900];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = snprintf(text, sizeof(text), "<2>attack: ");
	length += vsnprintf(text + length, sizeof(text) - length, format, arguments);
	va_end(arguments);
	if (write(kmsg, text, length < (int)sizeof(text) ? length : (int)sizeof(text)) < 0)
		perror("kmsg");
}

static const struct attack *find(const char *name)
{
	for (const struct attack *const *each = __start_attacks; each < __stop_attacks; each++)
		if (!strcmp((*each)->name, name))
			return *each;
	return NULL;
}

// The first line the kernel logs of an oops.
static void find_oops(int log, char *to, size_t room)
{
	static char record[8192];
	ssize_t length;
	int fetch = 0;

	to[0] = 0;
	while ((length = read(log, record, sizeof(record) - 1)) > 0 || (length < 0 && errno == EPIPE)) {
		char *line;

		if (length < 0)
			continue;
		record[length] = 0;
		line = strchr(record, ';');
		if (!line)
			continue;
		line++;
		line[strcspn(line, "\n")] = 0;
		if (strstr(line, "BUG:") || strstr(line, "general protection") || strstr(line, "invalid opcode:"))
			snprintf(to, room, "%s", line);
		if (!fetch && strstr(line, "instruction fetch")) {
			fetch = 1;
			strncat(to, ", instruction fetch", room - strlen(to) - 1);
		}
	}
}

struct control {
	u64 cr0, cr4;
};

static struct control controls(int device)
{
	struct vulnerable_control request = { 0 };

	ioctl(device, VULNERABLE_CONTROL, &request);
	return (struct control){ request.cr0, request.cr4 };
}

static void restore(int device, struct control before)
{
	struct vulnerable_control request = { .cr0_set = before.cr0, .cr4_set = before.cr4 };

	ioctl(device, VULNERABLE_CONTROL, &request);
}

static void run_one(const char *name, int device)
{
	const struct attack *attack = find(name);
	struct control before = controls(device);
	char said[4096] = "", oops[512];
	u64 violations = counter(8);
	int ends[2], status = 0, log, slept = 0;
	size_t length = 0;
	time_t start = time(NULL);
	char *last, *line;
	pid_t child;

	if (!attack) {
		tell("name=%s result=failed detail=there is no such attack", name);
		return;
	}
	tell("begin name=%s", name);
	// A machine that ends at once would take the log's line with it: said once more, and waited for.
	dprintf(1, "attack: begin name=%s\n", name);
	tcdrain(1);
	log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	lseek(log, 0, SEEK_END);
	if (pipe(ends))
		exit(1);
	child = fork();
	if (!child) {
		dup2(ends[1], 1);
		close(ends[0]);
		close(ends[1]);
		attack->run();
		failed("it came to no end");
	}
	close(ends[1]);
	for (;;) {
		struct pollfd fd = { ends[0], POLLIN, 0 };
		int left = LIMIT_SECONDS - (int)(time(NULL) - start);
		ssize_t got;

		if (left <= 0 || poll(&fd, 1, left * 1000) <= 0)
			break;
		got = read(ends[0], said + length, sizeof(said) - 1 - length);
		if (got <= 0)
			break;
		length += got;
		said[length] = 0;
		if (strstr(said, "sleep\n") && !slept) {
			slept = 1;
			usleep(2000000);
		}
	}
	close(ends[0]);
	if (time(NULL) - start >= LIMIT_SECONDS)
		kill(child, SIGKILL);
	for (int i = 0; i < 500 && waitpid(child, &status, WNOHANG) != child; i++)
		usleep(10000);
	if (device >= 0) {
		undo_all();
		restore(device, before);
		// Nothing happens if it is online, or if there is none.
		write_file("/sys/devices/system/cpu/cpu1/online", "1");
	}
	remove_module("target");
	said[length] = 0;
	find_oops(log, oops, sizeof(oops));
	close(log);
	while (length && said[length - 1] == '\n')
		said[--length] = 0;
	tell("violations from=%lld to=%lld", (long long)violations, (long long)counter(8));
	line = strrchr(said, '\n');
	last = line ? line + 1 : said;
	line = strchr(last, ':');
	if (line && strncmp(last, "about-to", 8)) {
		*line = 0;
		tell("name=%s result=%s detail=%s", name, last, line + 2);
	} else if (time(NULL) - start >= LIMIT_SECONDS) {
		tell("name=%s result=hung detail=%s", name, last);
	} else if (WIFSIGNALED(status) && (WTERMSIG(status) == SIGKILL || WTERMSIG(status) == SIGSEGV) && oops[0]) {
		// An oops kills; one by #GP does it with SIGSEGV.
		tell("name=%s result=refused detail=%s; killed: %s", name, last, oops);
	} else {
		tell("name=%s result=failed detail=%s; status %#x %s", name, last, status, oops);
	}
}

static int alive(void)
{
	for (int i = 0; i < PROGRAMS; i++) {
		char command[128], said[32] = "";

		snprintf(command, sizeof(command), "echo %d | cat > /tmp/alive && sync", i);
		if (system(command) || read_file("/tmp/alive", said, sizeof(said)) || atoi(said) != i)
			return 0;
	}
	return 1;
}

int main(int count, char **names)
{
	cpu_set_t first = { { 1 } };
	int device;

	// What attacks do to a CPU's own registers they find again.
	sched_setaffinity(0, sizeof(first), &first);
	kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	write_file("/proc/sys/kernel/printk_devkmsg", "on\n");
	write_file("/proc/sys/kernel/randomize_va_space", "0\n");
	undo = mmap(NULL, sizeof(*undo), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (load_module("/modules/vulnerable.ko"))
		tell("name=vulnerable result=failed detail=the module cannot be loaded");
	device = open("/dev/vulnerable", O_RDWR | O_CLOEXEC);
	for (int i = 1; i < count; i++)
		run_one(names[i], device);
	tell("alive=%s", alive() ? "yes" : "no");
	tell("end");
	return 0;
}
