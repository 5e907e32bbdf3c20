// Row 12. A site across two pages (CLAC), changed only in its second page: 0f 01 cb, STAC.
// Source: text_poke sites as data of the attacker's choosing; the patching interfaces trust their tables.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"
#include <string.h>

ATTACK("straddle-second-page")
{
	insert_module("/modules/target.ko");

	u64 function = symbol("target_straddle");
	u64 at = (function | (PAGE - 1)) + PAGE - 1;
	u8 site[3];

	kread(at, site, 3);
	if (memcmp(site, "\x0f\x01\xca", 3))
		failed("no CLAC at the page's end, but %02x %02x %02x", site[0], site[1], site[2]);
	if (parameter("straddle") != 0)
		failed("the module is not as it was");
	kwrite(at + 2, "\xcb", 1);
	if (parameter("straddle") == 1)
		succeeded("half of a site changed: it reads 1 instead of 0");
	if (parameter("straddle") == 0)
		restored("half of a site changed: it still reads 0");
	failed("it reads neither");
}
