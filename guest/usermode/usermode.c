// What user programs may legitimately do and what the user view turns into an exit: each must work as without SecVisor.
// Prints one line per case, "usermode: <case> ok" or "usermode: <case> FAIL <detail>"; exits 1 if any failed.
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static int failures;
static volatile sig_atomic_t last_signal, last_code, traps;
static volatile uintptr_t last_rip, last_address, last_flags, last_error;
static sigjmp_buf resume;
static int jump_back;

static void check(const char *name, int ok, const char *format, long a, long b)
{
	if (ok) {
		printf("usermode: %s ok\n", name);
	} else {
		failures++;
		printf("usermode: %s FAIL ", name);
		printf(format, a, b);
		printf("\n");
	}
	fflush(stdout);
}

static void handler(int signal, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	last_signal = signal;
	last_code = info->si_code;
	last_rip = uc->uc_mcontext.gregs[REG_RIP];
	last_flags = uc->uc_mcontext.gregs[REG_EFL];
	last_error = uc->uc_mcontext.gregs[REG_ERR];
	last_address = (uintptr_t)info->si_addr;
	traps++;
	if (jump_back)
		siglongjmp(resume, 1);
}

static void catch(int signal)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER };
	sigaction(signal, &action, NULL);
}

// Runs `code` and expects `signal` at an instruction `distance` bytes behind label `at`.
#define FAULTS(name, signal, code, distance)                                                            \
	do {                                                                                            \
		uintptr_t at_;                                                                          \
		last_signal = 0;                                                                        \
		jump_back = 1;                                                                          \
		if (!sigsetjmp(resume, 1)) {                                                            \
			__asm__ volatile("lea 1f(%%rip), %0" : "=r"(at_));                              \
			*(volatile uintptr_t *)&expected = at_;                                         \
			__asm__ volatile("lea 1f(%%rip), %%rax; mov %%rax, %0; 1: " code                \
					 : "=m"(expected) : : "rax", "rcx", "rdx", "memory");           \
		}                                                                                       \
		jump_back = 0;                                                                          \
		check(name, last_signal == (signal) && last_rip == expected + (distance),               \
		      "signal %ld, rip off by %ld", last_signal, (long)(last_rip - expected));          \
	} while (0)
static uintptr_t expected;

static void software_interrupts(void)
{
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory", "r8", "r9", "r10", "r11"); // i386 getpid
	check("int80", result == getpid(), "got %ld, want %ld", result, getpid());
	FAULTS("int3", SIGTRAP, "int3", 1);
	FAULTS("icebp", SIGTRAP, ".byte 0xf1", 1);
	FAULTS("int-03", SIGTRAP, ".byte 0xcd, 0x03", 2);
	FAULTS("int-privileged", SIGSEGV, "int $0x0e", 0);
	FAULTS("ud2", SIGILL, "ud2", 0);
	FAULTS("privileged", SIGSEGV, "hlt", 0);
	FAULTS("divide", SIGFPE, "xor %%edx, %%edx; xor %%ecx, %%ecx; 2: div %%ecx", 4);
	FAULTS("non-canonical", SIGSEGV, "mov $0x8000000000000000, %%rax; mov (%%rax), %%rcx", 10);
	FAULTS("sysenter", SIGILL, "sysenter", 0);
}

static void page_faults(void)
{
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	page[0] = 1;
	mprotect(page, 4096, PROT_READ);
	last_signal = 0;
	jump_back = 1;
	if (!sigsetjmp(resume, 1))
		*(volatile char *)page = 2;
	check("write-protected", last_signal == SIGSEGV && last_address == (uintptr_t)page && last_error == 7,
	      "signal %ld error %ld", last_signal, last_error);
	last_signal = 0;
	if (!sigsetjmp(resume, 1))
		((void (*)(void))page)();
	jump_back = 0;
	check("no-execute", last_signal == SIGSEGV && last_address == (uintptr_t)page && last_error == 0x15,
	      "signal %ld error %ld", last_signal, last_error);
	// Code written at run time, as a JIT compiler does, a SYSCALL across two pages included.
	mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC);
	memcpy(page + 4096 - 6, "\xb8\x27\x00\x00\x00\x0f\x05\xc3", 8); // mov $39, %eax; syscall; ret
	long pid = ((long (*)(void))(page + 4096 - 6))();
	check("jit-straddling-syscall", pid == getpid(), "got %ld, want %ld", pid, getpid());
}

static void single_step(void)
{
	traps = 0;
	jump_back = 0;
	__asm__ volatile("sub $128, %%rsp; pushf; orl $0x100, (%%rsp); popf; nop; nop; nop; pushf; andl $~0x100, (%%rsp); popf; add $128, %%rsp"
			 : : : "memory", "cc");
	check("trap-flag", traps == 6, "%ld traps, want %ld", traps, 6);
	traps = 0;
	__asm__ volatile("sub $128, %%rsp; pushf; orl $0x100, (%%rsp); popf; mov $39, %%eax; syscall; nop; pushf; andl $~0x100, (%%rsp); popf; add $128, %%rsp"
			 : : : "memory", "cc", "rax", "rcx", "r11");
	printf("usermode: trap-flag-over-syscall %d traps\n", (int)traps);
}

static void segments(void)
{
	uint16_t ds;
	traps = 0;
	__asm__ volatile("mov %1, %%ds; mov %%ds, %0" : "=r"(ds) : "r"(0x2b));
	check("load-ds", ds == 0x2b && traps == 0, "ds %lx traps %ld", ds, traps);
	__asm__ volatile("sub $128, %%rsp; push $0x2b; pop %%gs; mov %%gs, %0; push $0; pop %%gs; add $128, %%rsp" : "=r"(ds));
	check("pop-gs", ds == 0x2b && traps == 0, "gs %lx traps %ld", ds, traps);
}

// 32-bit code with a stack below 4 GiB: a system call by INT 80h, segment loads, a far jump back.
__asm__(".pushsection .text\n"
	".code32\n"
	"compat_code:\n"
	"	mov $20, %eax\n"
	"	int $0x80\n"
	"	mov %eax, compat_int80\n"
	"	mov $0x2b, %eax\n"
	"	mov %eax, %ds\n"
	"	mov %eax, %es\n"
	"	mov %eax, %ss\n"
	"	ljmp $0x33, $compat_back\n"
	".code64\n"
	".popsection");
extern uint32_t compat_int80;
uint32_t compat_int80;
extern char compat_stack_top[];
__asm__(".pushsection .bss\n.balign 16\n.skip 4096\n.globl compat_stack_top\ncompat_stack_top:\n.skip 16\n.popsection");

static void compatibility_mode(void)
{
	traps = 0;
	__asm__ volatile("mov %%rsp, %%rbx; mov %%rbp, %%r12\n"
			 "mov $compat_stack_top, %%rsp\n"
			 "pushq $0x23; pushq $compat_code; lretq\n"
			 ".globl compat_back\n"
			 "compat_back: mov %%rbx, %%rsp; mov %%r12, %%rbp"
			 : : : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "memory");
	check("compat-int80", compat_int80 == (uint32_t)getpid() && traps == 0, "got %ld, traps %ld", compat_int80, traps);
}

static void local_descriptor_table(void)
{
	struct user_desc desc = { .entry_number = 3, .base_addr = 0, .limit = 0xfffff, .seg_32bit = 1,
				  .limit_in_pages = 1, .useable = 1 };
	long failed = syscall(SYS_modify_ldt, 1, &desc, sizeof(desc));
	uint16_t selector = 3 << 3 | 7, es = 0;
	traps = 0;
	if (!failed)
		__asm__ volatile("mov %1, %%es; mov %%es, %0" : "=r"(es) : "r"((int)selector));
	check("modify_ldt", !failed && es == selector && traps == 0, "es %lx traps %ld", es, traps);
	// The table survives switches and is another process's not.
	getppid();
	__asm__ volatile("mov %%es, %0" : "=r"(es));
	check("ldt-survives", es == selector, "es %lx %ld", es, 0);
	__asm__ volatile("mov %0, %%es" : : "r"(0));
	FAULTS("bad-selector", SIGSEGV, "mov $0x1f, %%eax; mov %%eax, %%es; mov $0x67, %%eax; mov %%eax, %%es", 12);
	__asm__ volatile("mov %0, %%es" : : "r"(0));
}

static void tracing(void)
{
	int status;
	long steps = 0;
	pid_t child = fork();
	if (!child) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		for (volatile int i = 0; i < 20; i++)
			getppid();
		_exit(7);
	}
	waitpid(child, &status, 0);
	while (steps < 2000 && !ptrace(PTRACE_SINGLESTEP, child, 0, 0) && waitpid(child, &status, 0) > 0 && WIFSTOPPED(status))
		steps++;
	if (steps == 2000) {
		ptrace(PTRACE_CONT, child, 0, 0);
		waitpid(child, &status, 0);
	}
	check("ptrace-singlestep", steps > 100 && WIFEXITED(status) && WEXITSTATUS(status) == 7, "%ld steps, status %lx", steps, status);
}

static volatile long watched;
static void hardware_breakpoint(void)
{
	int status;
	pid_t child = fork();
	if (!child) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		watched = 1;
		_exit(0);
	}
	waitpid(child, &status, 0);
	ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg[0]), &watched);
	ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg[7]), 0xd0001); // write, 8 bytes, local
	ptrace(PTRACE_CONT, child, 0, 0);
	waitpid(child, &status, 0);
	long dr6 = ptrace(PTRACE_PEEKUSER, child, offsetof(struct user, u_debugreg[6]), 0);
	check("hardware-watchpoint", WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP && (dr6 & 1), "status %lx dr6 %lx", status, dr6);
	ptrace(PTRACE_CONT, child, 0, 0);
	waitpid(child, &status, 0);
}

static volatile sig_atomic_t ticks;
static void tick(int signal)
{
	(void)signal;
	ticks++;
}
static void timers_and_float(void)
{
	signal(SIGALRM, tick);
	struct itimerval every = { { 0, 2000 }, { 0, 2000 } };
	setitimer(ITIMER_REAL, &every, NULL);
	volatile double sum = 0;
	double want = 0;
	for (int i = 1; i < 3000000; i++)
		sum += 1.0 / i;
	memset(&every, 0, sizeof(every));
	setitimer(ITIMER_REAL, &every, NULL);
	for (int i = 1; i < 3000000; i++)
		want += 1.0 / i;
	check("float-under-ticks", ticks > 3 && sum == want, "%ld ticks, difference %ld", ticks, (long)((sum - want) * 1e9));
}

int main(void)
{
	int signals[] = { SIGTRAP, SIGSEGV, SIGILL, SIGFPE, SIGBUS };
	for (unsigned i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		catch(signals[i]);
	software_interrupts();
	page_faults();
	single_step();
	segments();
	compatibility_mode();
	local_descriptor_table();
	tracing();
	hardware_breakpoint();
	timers_and_float();
	printf("usermode: done, %d failed\n", failures);
	return failures != 0;
}
