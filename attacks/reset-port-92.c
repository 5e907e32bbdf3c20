// Row 27. INIT by system control port A: the CPU starts over outside SecVisor if only the CPU is reset.
// Source: Blue Pill detection folklore; PC/AT fast reset.
// Ends: natively reset; beneath SecVisor a reset of the whole machine, SecVisor included.
#include "common/attack.h"
#include <unistd.h>

ATTACK("reset-port-92")
{
	about_to("pulse bit 0 of port 92h");
	operate(VULNERABLE_OUT, 0x92, 1, 1);
	usleep(2000000);
	refused("the machine goes on");
}
