// Row 12. Only the last byte of a site changed: CLAC becomes STAC.
// Source: text_poke sites as data of the attacker's choosing; the patching interfaces trust their tables.
// Ends: natively succeeded; beneath SecVisor restored, tampered.
#include "common/attack.h"

ATTACK("clac-last-byte")
{
	insert_module("/modules/target.ko");

	u64 at = find_bytes(symbol("target_clac"), 128, "\x0f\x01\xca", 3);

	if (parameter("clac") != 0)
		failed("the module is not as it was");
	kwrite(at + 2, "\xcb", 1);
	if (parameter("clac") == 1)
		succeeded("CLAC made STAC by its last byte: it reads 1 instead of 0");
	if (parameter("clac") == 0)
		restored("CLAC made STAC by its last byte: it still reads 0");
	failed("it reads neither");
}
