// Row 15. The kernel's init text, freed after boot: its own bytes, as they were, written back to where they were and called.
// Source: executable leftovers of boot; approved bytes whose time is over.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int poisoned(const u8 *page)
{
	for (unsigned i = 0; i < PAGE; i++)
		if (page[i] != 0xcc)
			return 0;
	return 1;
}

static u64 functions[65536];
static unsigned count;

// The symbols of the init text.
static void find_functions(u64 start, u64 end)
{
	FILE *file = fopen("/proc/kallsyms", "r");
	unsigned long long address;
	char line[512];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "%llx", &address) == 1 && address - start < end - start && count < 65536)
			functions[count++] = address;
	if (file)
		fclose(file);
}

// Address of a function in this page that does nothing but return a constant, which need be none of its callers'.
static u64 constant(u64 page, const u8 *bytes, u8 *value)
{
	for (unsigned i = 0; i < count; i++) {
		const u8 *code = bytes + (functions[i] - page);

		if (functions[i] - page >= PAGE - 32)
			continue;
		if (!memcmp(code, "\xf3\x0f\x1e\xfa", 4))
			code += 4;
		*value = !memcmp(code, "\xb8\x01\0\0\0\xc3", 6);
		if (*value || !memcmp(code, "\x31\xc0\xc3", 3))
			return functions[i];
	}
	return 0;
}

ATTACK("init-text-original")
{
	static u8 page[PAGE], original[PAGE];
	int file = open("/attack/init-text", O_RDONLY | O_CLOEXEC);
	u64 base, at, result = ~0ull;
	u8 value = 0;

	if (file < 0 || pread(file, &base, 8, 0) != 8)
		failed("no bytes of the init text");
	find_functions(base, base + lseek(file, 0, SEEK_END));
	// A page that nobody has taken since it was freed and poisoned, with a function that returns a constant.
	for (u64 offset = 0; pread(file, original, PAGE, 8 + offset) == PAGE; offset += PAGE) {
		kread(base + offset, page, PAGE);
		if (!poisoned(page) || poisoned(original) || !(at = constant(base + offset, original, &value)))
			continue;
		kwrite(base + offset, original, PAGE);
		make_executable(at);
		about_to("call init text at %#llx", (unsigned long long)at);
		result = call(at);
		kwrite(base + offset, page, PAGE);
		if ((u32)result == value)
			succeeded("init text was back, and %#llx returned %u", (unsigned long long)at, value);
		failed("it returned %#llx", (unsigned long long)result);
	}
	failed("no page of it is free");
}
