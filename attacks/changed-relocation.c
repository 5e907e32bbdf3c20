// Row 14. An approved module with one relocation that leads to another function.
// Source: file-infecting rootkits (truff, Phrack 61-10).
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ATTACK("changed-relocation")
{
	about_to("load /attack/witness.ko");
	insert_module("/attack/witness.ko");
	char text[32];

	read_file("/sys/module/witness/parameters/divisor", text, sizeof(text));
	remove_module("witness");
	if (atoi(text) != 36)
		failed("it found %s", text);
	succeeded("the module called lcm instead of gcd and found 36 instead of 6");
}
