// Row 28. S3 by PM1 control: the machine would wake up outside SecVisor.
// Source: S3 boot-script attacks (Wojtczuk, Kallenberg 2014).
// Ends: natively suspended; beneath SecVisor refused, port.
#include "common/attack.h"
#include <unistd.h>

ATTACK("sleep-s3")
{
	about_to("enter S3 by PM1 control");
	operate(VULNERABLE_OUT, 0x604, 2, 0x2000 | 1 << 10);
	usleep(2000000);
	refused("the machine goes on");
}
