// Row 14. A stock module with one byte of its code changed.
// Source: file-infecting rootkits (truff, Phrack 61-10).
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ATTACK("changed-module")
{
	about_to("load /attack/dummy.ko");
	insert_module("/attack/dummy.ko");
	if (access("/sys/class/net/dummy0/queues/tx-1", F_OK))
		failed("dummy0 has one transmit queue");
	remove_module("dummy");
	succeeded("dummy0 came up with 2 transmit queues instead of 1");
}
