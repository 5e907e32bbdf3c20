// Row 4. Approved-page remapping of a module: its text's page-table entry is made to name a changed copy.
// Source: Franklin et al. 2008.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <string.h>

// Makes the page of `at` map another frame; its 2 MiB mapping is split first if there is one.
static void remap(u64 at, u64 frame, u64 extra)
{
	u64 value, entry;
	unsigned shift;

	entry = entry_of(at, &value, &shift);
	if (shift == 21) {
		u64 table = kernel_page(), flags = value & ~FRAME & ~LARGE;

		for (u64 i = 0; i < 512; i++)
			operate(VULNERABLE_STORE, table + 8 * i, ((value & FRAME & ~0x1fffffull) + (i << 12)) | flags, 8);
		operate(VULNERABLE_STORE, table + 8 * ((at >> 12) & 511), frame | flags | extra, 8);
		poke(entry, physical(table) | 0x63);
	} else if (shift == 12) {
		poke(entry, (value & ~FRAME) | frame | extra);
	} else {
		failed("mapped by %u bits", shift);
	}
	flush(0);
}

ATTACK("remap-module")
{
	insert_module("/modules/target.ko");

	u64 at = symbol("target_answer"), copy = kernel_page();
	u8 page[PAGE];
	u64 result;

	if (call(at) != 42)
		failed("the module is not as it was");
	kread(at & ~(PAGE - 1), page, PAGE);
	memcpy(page + (at & (PAGE - 1)), CODE, CODE_LENGTH);
	kwrite(copy, page, PAGE);
	remap(at, physical(copy), 0);
	about_to("run a module's text in another frame");
	result = call(at);
	if (result == MARK)
		succeeded("the module's page in another frame returned %#x", MARK);
	failed("it returned %#llx", (unsigned long long)result);
}
