// Row 18. The AP trampoline's first bytes in low memory replaced, and the second CPU brought online.
// Source: Linux, arch/x86/realmode/rm/trampoline_64.S.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"

ATTACK("start-trampoline")
{
	u64 page = prepare_start(), header = kread64(symbol("real_mode_header")), at, now;
	int error;

	if (set_online(1, 0))
		failed("the second CPU stays online");
	// struct real_mode_header: its third field.
	at = direct(kread64(header + 8) & 0xffffffff);
	now = kread64(at);
	poke_bytes(at, START, START_LENGTH);
	about_to("bring the second CPU online");
	error = set_online(1, 1);
	if (seen(page))
		succeeded("the second CPU ran our code in the trampoline");
	if (!error && kread64(at) == now)
		restored("the second CPU is online, the trampoline's bytes are back");
	if (error)
		refused("the second CPU did not start: %d", error);
	failed("the trampoline begins with %#llx", (unsigned long long)kread64(at));
}
