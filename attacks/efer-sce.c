// Row 7. EFER.SCE cleared while user mode runs: SYSCALL does not exist. SecVisor uses the bit itself and must neither lose track of it nor complete the call.
// Source: the SYSCALL entry as the hypervisor mediates it.
// Ends: natively succeeded: SYSCALL is #UD; beneath SecVisor harmless: it is #UD, and afterwards it works.
#include "common/attack.h"
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

static volatile int invalid;
static u64 wanted;

static u64 rdtsc(void)
{
	return __builtin_ia32_rdtsc();
}

static void spin(u64 ticks)
{
	for (u64 start = rdtsc(); rdtsc() - start < ticks;)
		;
}

// The way back is a system call, so it waits for the bit; the SYSCALL that was none is skipped.
static void on_signal(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)info;
	((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
	invalid = 1;
	spin(wanted);
}

ATTACK("efer-sce")
{
	struct vulnerable_operation op = { .what = VULNERABLE_WRMSR_LATER };
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
	u64 efer = operate(VULNERABLE_RDMSR, MSR_EFER, 0, 0), start = rdtsc(), second, result = 39;

	usleep(100000);
	second = (rdtsc() - start) * 10;
	sigaction(SIGILL, &action, NULL);
	undo_msr(MSR_EFER);
	if (write(1, "sleep\n", 6) < 0)
		_exit(1);
	usleep(200000);
	op.in[0] = MSR_EFER;
	op.in[1] = efer & ~1ull;
	op.in[2] = 300;
	op.in[3] = efer;
	op.in[4] = 500;
	if (try_operate(&op))
		failed("no timer");
	// In user mode until the bit is off, since SYSRET needs it; by an interrupt it is a return by IRET.
	spin(second / 2);
	wanted = second;
	__asm__ volatile("syscall" : "+a"(result) : : "rcx", "r11", "memory");
	if (!invalid)
		failed("SYSCALL returned %lld", (long long)result);
	if (getpid() <= 0)
		failed("SYSCALL does not come back");
	if (counter(0) == 1)
		harmless("SYSCALL is #UD while EFER.SCE is 0, and works again");
	succeeded("SYSCALL is #UD while EFER.SCE is 0");
}
