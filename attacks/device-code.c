// Row 25. Code in a device's memory, mapped executable and called.
// Source: option-ROM and VRAM resident code, e.g. Jellyfish-like ideas.
// Ends: natively succeeded; beneath SecVisor refused, device-fetch.
#include "common/attack.h"
#include <stdio.h>

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

ATTACK("device-code")
{
	u64 code = map_physical(frame_of_device(), KERNEL_CODE);

	for (unsigned i = 0; i < CODE_LENGTH; i++)
		operate(VULNERABLE_STORE, code + i, CODE[i], 1);
	call_code(code, "a device's memory");
}
