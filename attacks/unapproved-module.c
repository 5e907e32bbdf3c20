// Row 14. A stock module that was not approved.
// Source: threats: bring-your-own vulnerable driver.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ATTACK("unapproved-module")
{
	about_to("load /attack/sysv.ko");
	insert_module("/attack/sysv.ko");
	static char text[4096];

	read_file("/proc/filesystems", text, sizeof(text));
	if (!strstr(text, "sysv"))
		failed("it registered nothing");
	remove_module("sysv");
	succeeded("the module registered its file system");
}
