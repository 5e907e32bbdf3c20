// Row 23. An approval with a sound checksum whose kernel data has a part outside of the kernel: launch would write wherever it says.
// Source: an approval is all that SecVisor knows: threat table.
// Ends: against a SecVisor that does not check its approval succeeded: it was written there; SecVisor does not start, and says why in one line.
#include "common/attack.h"
#include <string.h>

ATTACK("approval-outside")
{
	// Low memory, of which Linux keeps the first MiB to itself.
	u64 window = map_physical(0x50000, KERNEL_DATA);
	char text[16];

	kread(window, text, sizeof(text));
	if (!memcmp(text, "written outside!", sizeof(text)))
		succeeded("launch wrote outside of the kernel");
	failed("nothing was written");
}
