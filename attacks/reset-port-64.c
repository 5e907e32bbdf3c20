// Row 27. INIT by the keyboard controller: the CPU starts over outside SecVisor if only the CPU is reset.
// Source: PC/AT reset line.
// Ends: natively reset; beneath SecVisor a reset of the whole machine, SecVisor included.
#include "common/attack.h"
#include <unistd.h>

ATTACK("reset-port-64")
{
	about_to("have the keyboard controller pulse the reset line");
	operate(VULNERABLE_OUT, 0x64, 1, 0xfe);
	usleep(2000000);
	refused("the machine goes on");
}
