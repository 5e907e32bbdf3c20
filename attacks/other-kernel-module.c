// Row 14. A stock module of another kernel version, loaded by force.
// Source: finit_module with MODULE_INIT_IGNORE_VERMAGIC; a module that was right for the kernel before the update.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CRC crc7(0x42)

// Polynomial x^7 + x^3 + 1, in the upper seven bits.
static u8 crc7(u8 value)
{
	for (int i = 0; i < 8; i++)
		value = value & 0x80 ? value << 1 ^ 9 << 1 : value << 1;
	return value;
}

ATTACK("other-kernel-module")
{
	const int force = 3; // MODULE_INIT_IGNORE_MODVERSIONS, MODULE_INIT_IGNORE_VERMAGIC
	int fd = open("/attack/other.ko", O_RDONLY | O_CLOEXEC);
	struct vulnerable_operation op = { .what = VULNERABLE_CALL_WITH };
	u64 bytes = operate(VULNERABLE_BSS, 0, 0, 0);

	if (fd < 0 || syscall(SYS_finit_module, fd, "", force))
		failed("the module is not loaded: %s", strerror(errno));
	close(fd);
	// The checksum of a byte 42h is known.
	kwrite(bytes, "\x42", 1);
	op.in[0] = symbol("crc7_be");
	op.in[2] = bytes;
	op.in[3] = 1;
	about_to("call a function of another kernel's module");
	if (try_operate(&op))
		failed("no call");
	remove_module("crc7");
	if (op.out[0] == CRC)
		succeeded("another kernel's crc7 returned %#llx", (unsigned long long)op.out[0]);
	failed("it returned %#llx", (unsigned long long)op.out[0]);
}
