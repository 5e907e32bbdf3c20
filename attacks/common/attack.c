// See attack.h.

#include "attack.h"
#include "undo.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

const u8 CODE[CODE_LENGTH] = { 0xf3, 0x0f, 0x1e, 0xfa, 0xb8, 0x37, 0x13, 0x00, 0x00, 0xc3 };

struct undo_log *undo;

static void say(const char *word, const char *format, va_list arguments)
{
	char text[512];
	int used = snprintf(text, sizeof(text), "%s: ", word);

	used += vsnprintf(text + used, sizeof(text) - used - 1, format, arguments);
	if (used > (int)sizeof(text) - 2)
		used = sizeof(text) - 2;
	text[used++] = '\n';
	if (write(1, text, used) < 0)
		_exit(1);
}

#define DEFINE_END(word)                                                                               \
	void word(const char *format, ...)                                                              \
	{                                                                                               \
		va_list arguments;                                                                      \
		va_start(arguments, format);                                                            \
		say(#word, format, arguments);                                                          \
		_exit(0);                                                                               \
	}
DEFINE_END(succeeded)
DEFINE_END(refused)
DEFINE_END(restored)
DEFINE_END(harmless)
DEFINE_END(ignored)
DEFINE_END(failed)

void about_to(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	say("about-to", format, arguments);
	va_end(arguments);
}

static int device(void)
{
	static int fd = -1;

	if (fd < 0)
		fd = open("/dev/vulnerable", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		failed("no /dev/vulnerable: %s", strerror(errno));
	return fd;
}

long try_operate(struct vulnerable_operation *op)
{
	return ioctl(device(), VULNERABLE_OPERATE, op) ? -errno : 0;
}

u64 operate(u64 what, u64 a, u64 b, u64 c)
{
	struct vulnerable_operation op = { .what = what, .in = { a, b, c } };
	long error = try_operate(&op);

	if (error)
		failed("operation %llu of %#llx, %#llx: %s", (unsigned long long)what, (unsigned long long)a,
		       (unsigned long long)b, strerror(-error));
	return op.out[0];
}

static void transfer(unsigned long request, u64 at, void *bytes, size_t length)
{
	for (size_t done = 0; done < length;) {
		struct vulnerable_bytes part = { .address = at + done, .length = length - done };

		if (part.length > sizeof(part.bytes))
			part.length = sizeof(part.bytes);
		if (request == VULNERABLE_WRITE)
			memcpy(part.bytes, (u8 *)bytes + done, part.length);
		if (ioctl(device(), request, &part))
			failed("access to %#llx: %s", (unsigned long long)part.address, strerror(errno));
		if (request == VULNERABLE_READ)
			memcpy((u8 *)bytes + done, part.bytes, part.length);
		done += part.length;
	}
}

void kread(u64 at, void *to, size_t length)
{
	transfer(VULNERABLE_READ, at, to, length);
}

void kwrite(u64 at, const void *from, size_t length)
{
	transfer(VULNERABLE_WRITE, at, (void *)from, length);
}

u64 kread64(u64 at)
{
	u64 value;

	kread(at, &value, sizeof(value));
	return value;
}

static struct undo *new_undo(void)
{
	if (undo->count == UNDO_MAX)
		failed("too much to put back");
	return &undo->entries[undo->count];
}

void poke(u64 at, u64 value)
{
	*new_undo() = (struct undo){ .kind = UNDO_STORE, .at = at, .value = kread64(at) };
	undo->count++;
	operate(VULNERABLE_STORE, at, value, 8);
}

void keep_bytes(u64 at, size_t length)
{
	for (size_t done = 0; done < length; done += 8) {
		struct undo *entry = new_undo();
		size_t part = length - done < 8 ? length - done : 8;

		*entry = (struct undo){ .kind = UNDO_BYTES, .at = at + done, .length = part };
		kread(at + done, &entry->value, part);
		undo->count++;
	}
}

void poke_bytes(u64 at, const void *from, size_t length)
{
	keep_bytes(at, length);
	kwrite(at, from, length);
}

void undo_msr(u32 msr)
{
	*new_undo() = (struct undo){ .kind = UNDO_MSR, .at = msr, .value = operate(VULNERABLE_RDMSR, msr, 0, 0) };
	undo->count++;
}

void undo_gdt(u64 base, u16 limit)
{
	*new_undo() = (struct undo){ .kind = UNDO_GDT, .at = base, .length = limit };
	undo->count++;
}

void undo_all(void)
{
	while (undo->count) {
		struct undo entry = undo->entries[--undo->count];
		struct vulnerable_operation op = { 0 };

		switch (entry.kind) {
		case UNDO_STORE:
			op = (struct vulnerable_operation){ VULNERABLE_STORE, { entry.at, entry.value, 8 }, { 0 } };
			try_operate(&op);
			break;
		case UNDO_BYTES:
			kwrite(entry.at, &entry.value, entry.length);
			break;
		case UNDO_MSR:
			op = (struct vulnerable_operation){ VULNERABLE_WRMSR, { entry.at, entry.value }, { 0 } };
			try_operate(&op);
			break;
		case UNDO_GDT:
			op = (struct vulnerable_operation){ VULNERABLE_LGDT, { entry.at, entry.length }, { 0 } };
			try_operate(&op);
			break;
		}
	}
	flush(0);
}

u64 find_symbol(const char *name)
{
	FILE *file = fopen("/proc/kallsyms", "r");
	unsigned long long address;
	char line[512], found[256], kind;

	if (!file)
		failed("no /proc/kallsyms");
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%llx %c %255s", &address, &kind, found) == 3 && !strcmp(found, name)) {
			fclose(file);
			return address;
		}
	}
	fclose(file);
	return 0;
}

u64 symbol(const char *name)
{
	u64 address = find_symbol(name);

	if (!address)
		failed("the kernel has no %s", name);
	return address;
}

u64 entry_of(u64 address, u64 *value, unsigned *shift)
{
	struct vulnerable_operation op = { .what = VULNERABLE_ENTRY, .in = { address } };

	if (try_operate(&op))
		failed("%#llx is not mapped", (unsigned long long)address);
	if (value)
		*value = op.out[1];
	if (shift)
		*shift = op.out[2];
	return op.out[0];
}

u64 entry_at(u64 address, unsigned shift)
{
	u64 table = operate(VULNERABLE_RDCR, 3, 0, 0) & FRAME;

	for (unsigned level = 39;; level -= 9) {
		u64 entry = direct(table) + 8 * (address >> level & 511), value;

		if (level == shift)
			return entry;
		value = kread64(entry);
		if (!(value & PRESENT) || value & LARGE)
			failed("%#llx has no table of entries for %u bits", (unsigned long long)address, shift);
		table = value & FRAME;
	}
}

u64 find_bytes(u64 from, size_t room, const void *pattern, size_t length)
{
	u8 bytes[4096];

	if (room + length > sizeof(bytes))
		failed("too long a search");
	kread(from, bytes, room + length);
	for (size_t at = 0; at < room; at++)
		if (!memcmp(bytes + at, pattern, length))
			return from + at;
	failed("no such bytes at %#llx", (unsigned long long)from);
}

struct tables tables(void)
{
	struct vulnerable_operation op = { .what = VULNERABLE_TABLES };
	struct tables found;
	u64 low, high;

	if (try_operate(&op))
		failed("no tables");
	found = (struct tables){ .idt = op.out[0],
				 .gdt = op.out[1],
				 .idt_limit = op.out[2],
				 .gdt_limit = op.out[2] >> 16,
				 .task = op.out[3] >> 16 };
	low = kread64(found.gdt + found.task);
	high = kread64(found.gdt + found.task + 8);
	found.tss = (low >> 16 & 0xffffff) | (low >> 56) << 24 | high << 32;
	return found;
}

void interrupt_gate(u8 to[16], u64 handler, unsigned stack)
{
	u64 low = (handler & 0xffff) | 0x10ull << 16 | (u64)stack << 32 | 0xeeull << 40 | (handler >> 16 & 0xffff) << 48;
	u64 high = handler >> 32;

	memcpy(to, &low, 8);
	memcpy(to + 8, &high, 8);
}

void call_gate(u8 to[16], u64 handler)
{
	u64 low = (handler & 0xffff) | 0x10ull << 16 | 0xecull << 40 | (handler >> 16 & 0xffff) << 48;
	u64 high = handler >> 32;

	memcpy(to, &low, 8);
	memcpy(to + 8, &high, 8);
}

long call_far(u16 selector, u64 gs_of_kernel)
{
	struct {
		u32 offset;
		u16 selector;
	} __attribute__((packed)) pointer = { 0, selector };
	long result;
	u64 gs;

	__asm__ volatile("rdgsbase %1; wrgsbase %3; xor %%eax, %%eax; lcall *%2; wrgsbase %1"
			 : "=&a"(result), "=&r"(gs)
			 : "m"(pointer), "r"(gs_of_kernel)
			 : "memory", "cc", "rcx", "rdx");
	return result;
}

u64 hypervisor(void)
{
	FILE *file = fopen("/proc/iomem", "r");
	unsigned long long start, end, found = 0;
	char line[256];

	while (file && fgets(line, sizeof(line), file))
		if (line[0] != ' ' && sscanf(line, "%llx-%llx", &start, &end) == 2 && strstr(line, "eserved") &&
		    end - start > 0x100000 && end < 0x80000000ull)
			found = start;
	if (!found)
		failed("nothing is reserved");
	return found;
}

u64 physical(u64 address)
{
	unsigned shift;
	u64 value, mask;

	entry_of(address, &value, &shift);
	mask = (1ull << shift) - 1;
	return (value & FRAME & ~mask) | (address & mask);
}

u64 direct(u64 physical_address)
{
	return kread64(symbol("page_offset_base")) + physical_address;
}

u64 map_physical(u64 at, u64 flags)
{
	return operate(VULNERABLE_MAP, at & ~(PAGE - 1), flags, 0) + (at & (PAGE - 1));
}

void make_executable(u64 address)
{
	if (ioctl(device(), VULNERABLE_EXECUTABLE, &address))
		failed("%#llx cannot be made executable: %s", (unsigned long long)address, strerror(errno));
}

void flush(u64 address)
{
	operate(VULNERABLE_FLUSH, address, 0, 0);
}

void unprotect(void)
{
	struct vulnerable_control request = { .cr4_clear = 1ull << 20 | 1ull << 21 };

	if (ioctl(device(), VULNERABLE_CONTROL, &request) || (request.cr4 & request.cr4_clear))
		failed("SMEP and SMAP stay on");
}

u64 call(u64 address)
{
	if (ioctl(device(), VULNERABLE_CALL, &address))
		failed("the call came back with %s", strerror(errno));
	return address;
}

u64 kernel_page(void)
{
	u64 address;

	if (ioctl(device(), VULNERABLE_ALLOCATE, &address))
		failed("no kernel page: %s", strerror(errno));
	return address;
}

void *user_pages(size_t count)
{
	void *pages = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_LOCKED, -1, 0);

	if (pages == MAP_FAILED)
		failed("no page: %s", strerror(errno));
	memset(pages, 0, count * PAGE);
	return pages;
}

void *user_page(void)
{
	return user_pages(1);
}

void call_code(u64 address, const char *place)
{
	u64 result;

	make_executable(address);
	about_to("call code in %s", place);
	unprotect();
	result = call(address);
	if (result == MARK)
		succeeded("code in %s ran in kernel mode and returned %#x", place, MARK);
	failed("the call returned %#llx", (unsigned long long)result);
}

long victim(void)
{
	return syscall(SYS_keyctl, 0xffff, 0, 0, 0);
}

void judge_victim(long before, const u8 *approved_bytes, const char *how)
{
	u8 now[CODE_LENGTH];
	long result = victim();

	kread(symbol(VICTIM), now, sizeof(now));
	if (result == MARK && !memcmp(now, CODE, sizeof(now)))
		succeeded("kernel text written %s: the system call returns %#x", how, MARK);
	if (result == before && !memcmp(now, approved_bytes, sizeof(now)))
		restored("kernel text written %s: the system call still returns %ld, its bytes are back", how, before);
	failed("the system call returned %ld", result);
}

void alone_with_msr(u32 msr)
{
	u64 before = operate(VULNERABLE_RDMSR, msr, 0, 0);

	if (write(1, "sleep\n", 6) < 0)
		_exit(1);
	usleep(200000);
	operate(VULNERABLE_WRMSR_LATER, msr, before, 500);
}

static void on_fault(int signal)
{
	refused("the user program gets signal %d", signal);
}

void expect_fault(void)
{
	static u8 stack[65536];
	stack_t own = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction action = { .sa_handler = on_fault, .sa_flags = SA_ONSTACK };

	sigaltstack(&own, NULL);
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGILL, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
}

static sigjmp_buf no_hypercall;

static void on_no_hypercall(int signal)
{
	siglongjmp(no_hypercall, signal);
}

u64 counter(u64 index)
{
	struct sigaction action = { .sa_handler = on_no_hypercall }, before;
	u64 value = ~0ull;

	sigaction(SIGILL, &action, &before);
	if (!sigsetjmp(no_hypercall, 1))
		__asm__ volatile("vmmcall" : "=a"(value) : "a"(0x53564300ul), "D"(index) : "memory");
	sigaction(SIGILL, &before, NULL);
	return value;
}

static u64 kernel_gs, entry_stack;

void prepare_entry(void)
{
	u8 *stack = user_pages(16);

	entry_stack = (u64)stack + 15 * PAGE;
	kernel_gs = operate(VULNERABLE_GS, 0, 0, 0);
}

long syscall_prepared(long number)
{
	long result;
	u64 gs;

	__asm__ volatile("rdgsbase %1; wrgsbase %3; mov %%rsp, %%rbx; mov %4, %%rsp; syscall;"
			 "mov %%rbx, %%rsp; wrgsbase %1"
			 : "=a"(result), "=&r"(gs)
			 : "a"(number), "r"(kernel_gs), "r"(entry_stack), "D"(1)
			 : "rbx", "rcx", "r11", "memory", "cc");
	return result;
}

long interrupt_prepared(void)
{
	long result;
	u64 gs;

	__asm__ volatile("rdgsbase %1; wrgsbase %2; mov $0, %%eax; int $0x81; wrgsbase %1"
			 : "=&a"(result), "=&r"(gs)
			 : "r"(kernel_gs)
			 : "rcx", "rdx", "r11", "memory", "cc");
	return result;
}

// By init_module, not finit_module: since 6.5 Linux keeps a list of the latter's callers on their stacks, and goes on to use
// what a caller has left there that was killed by a refusal.
int load_module(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), error = 0;
	struct stat file;

	if (fd < 0 || fstat(fd, &file))
		failed("no %s", path);

	void *module = mmap(NULL, file.st_size, PROT_READ, MAP_PRIVATE, fd, 0);

	close(fd);
	if (module == MAP_FAILED)
		failed("%s: %s", path, strerror(errno));
	if (syscall(SYS_init_module, module, file.st_size, ""))
		error = errno;
	munmap(module, file.st_size);
	return error;
}

void insert_module(const char *path)
{
	int error = load_module(path);

	if (error)
		failed("%s: %s", path, strerror(error));
}

int remove_module(const char *name)
{
	return syscall(SYS_delete_module, name, O_NONBLOCK) ? errno : 0;
}

long parameter(const char *name)
{
	char path[128], text[32] = "";

	snprintf(path, sizeof(path), "/sys/module/target/parameters/%s", name);
	if (read_file(path, text, sizeof(text)))
		failed("no parameter %s", name);
	return atol(text);
}

int read_file(const char *path, char *to, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length;

	if (fd < 0)
		return errno;
	length = read(fd, to, room - 1);
	close(fd);
	if (length < 0)
		return errno;
	to[length] = 0;
	return 0;
}

int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600), error = 0;

	if (fd < 0)
		return errno;
	if (write(fd, text, strlen(text)) < 0)
		error = errno;
	close(fd);
	return error;
}

void on_cpu(unsigned cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		failed("there is no CPU %u: %s", cpu, strerror(errno));
}

int set_online(unsigned cpu, int online)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/online", cpu);
	return write_file(path, online ? "1" : "0");
}

int on_second_cpu(void (*what)(void *), void *with)
{
	pid_t child = fork();

	if (child < 0)
		failed("no other process: %s", strerror(errno));
	if (child)
		return child;
	on_cpu(1);
	what(with);
	_exit(0);
}

// xor ax, ax; mov ds, ax; mov word [SEEN], MARK; cli; hlt; jmp to the hlt
const u8 START[START_LENGTH] = { 0x31, 0xc0, 0x8e, 0xd8, 0xc7, 0x06, 0x00, 0x68, 0x37, 0x13, 0xfa, 0xf4, 0xeb, 0xfd, 0x90 };

u64 prepare_start(void)
{
	u64 page = map_physical(START_PAGE, KERNEL_DATA);

	operate(VULNERABLE_STORE, page + (SEEN - START_PAGE), 0, 8);
	for (unsigned i = 0; i < START_LENGTH; i++)
		operate(VULNERABLE_STORE, page + i, START[i], 1);
	return page;
}

u64 prepare_start_saying(const char *name, const char *detail, int reset)
{
	u64 page = prepare_start();
	char says[200];
	u8 length = snprintf(says, sizeof(says), "\r\nattack: name=%s result=succeeded detail=%s\r\n", name, detail);
	// mov si, 100h; mov cx, length; mov dx, 3f8h; 1: cs lodsb; out dx, al; loop 1b
	const u8 say_it[] = { 0xbe, 0x00, 0x01, 0xb9, length, 0, 0xba, 0xf8, 0x03, 0x2e, 0xac, 0xee, 0xe2, 0xfb };
	// mov dx, cf9h; mov al, 6; out dx, al; hlt
	const u8 reset_it[] = { 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4 };
	unsigned at = 0;

	for (unsigned i = 0; i < sizeof(say_it); i++)
		operate(VULNERABLE_STORE, page + at++, say_it[i], 1);
	for (unsigned i = 0; i < (reset ? sizeof(reset_it) : START_LENGTH); i++)
		operate(VULNERABLE_STORE, page + at++, reset ? reset_it[i] : START[i], 1);
	for (unsigned i = 0; i < length; i++)
		operate(VULNERABLE_STORE, page + 0x100 + i, says[i], 1);
	return page;
}

int seen(u64 page)
{
	for (int i = 0; i < 50; i++) {
		if ((kread64(page + (SEEN - START_PAGE)) & 0xffff) == MARK)
			return 1;
		usleep(100000);
	}
	return 0;
}
