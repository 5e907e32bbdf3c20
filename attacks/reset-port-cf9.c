// Row 27. INIT by the chipset's reset control: a soft reset resets only the CPU.
// Source: ICH9 datasheet, 13.7.5.
// Ends: natively reset; beneath SecVisor a reset of the whole machine, SecVisor included.
#include "common/attack.h"
#include <unistd.h>

ATTACK("reset-port-cf9")
{
	about_to("ask for a soft reset at port CF9h");
	operate(VULNERABLE_OUT, 0xcf9, 1, 4);
	usleep(2000000);
	refused("the machine goes on");
}
