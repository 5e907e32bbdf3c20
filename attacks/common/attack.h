// What attacks are made of: the primitives of the module `vulnerable`, and how an attack says that it has ended.
#ifndef ATTACK_H
#define ATTACK_H

#include "../../guest/vulnerable/vulnerable.h"
#include <stdint.h>
#include <stddef.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;
typedef int32_t s32;

struct attack {
	const char *name;
	void (*run)(void);
};

// One file holds one attack, called like it.
#define ATTACK(title)                                                                                  \
	static void run(void);                                                                          \
	static const struct attack this_attack = { title, run };                                        \
	__attribute__((section("attacks"), used)) static const struct attack *const registered = &this_attack; \
	static void run(void)

// How it ended; none returns. `succeeded`: what is forbidden was done, seen by an effect.
#define END(word) __attribute__((noreturn, format(printf, 1, 2))) void word(const char *format, ...)
END(succeeded); // the attack did what it wanted
END(refused); // the machine said no
END(restored); // the approved bytes ran, having been put back
END(harmless); // what was changed had no effect on what runs
END(ignored); // the emulator has no such register: nothing was tried
END(failed); // neither: the attack is broken
// The last words before a step from which there may be no return.
__attribute__((format(printf, 1, 2))) void about_to(const char *format, ...);

// The device. `operate` ends the attack as failed if the module says no; `try_operate` returns -errno.
long try_operate(struct vulnerable_operation *op);
u64 operate(u64 what, u64 a, u64 b, u64 c);
void kread(u64 at, void *to, size_t length); // a plain load
void kwrite(u64 at, const void *from, size_t length); // by an alias of the frame, whatever the page's rights
u64 kread64(u64 at);
// Plain store of 8 bytes; put back when the attack has ended, however it ended.
void poke(u64 at, u64 value);
// Whatever length, by an alias; put back likewise.
void poke_bytes(u64 at, const void *from, size_t length);
// Nothing is written now, but these bytes are put back when the attack has ended.
void keep_bytes(u64 at, size_t length);
// To be written by the parent when the attack has ended: an MSR, a control register.
void undo_msr(u32 msr);
void undo_gdt(u64 base, u16 limit);

u64 symbol(const char *name); // ends as failed if there is none
u64 find_symbol(const char *name); // 0 if there is none
u64 entry_of(u64 address, u64 *value, unsigned *shift); // address of the page-table entry
// Address of the entry that maps so many low bits of the address (12, 21, 30, 39), present or not.
u64 entry_at(u64 address, unsigned shift);
// Where a pattern is, as long as it begins within so many bytes; ends as failed if it is not there.
u64 find_bytes(u64 from, size_t room, const void *pattern, size_t length);
u64 physical(u64 address);
u64 direct(u64 physical_address); // where the direct map has it
u64 map_physical(u64 at, u64 flags);
void make_executable(u64 address);
void flush(u64 address); // 0: everything
void unprotect(void); // SMEP and SMAP off
u64 call(u64 address);
u64 kernel_page(void); // of heap

// This process runs on this CPU only; attacks begin on the first. Ends as failed if there is none.
void on_cpu(unsigned cpu);
// Linux takes it offline or online again: 0 or errno. The runner has it online again when the attack has ended.
int set_online(unsigned cpu, int online);
// Another process, on the second CPU, does this and ends; its process ID.
int on_second_cpu(void (*what)(void *), void *with);
// Code for a CPU that starts in real mode: writes MARK to SEEN and halts.
#define START_LENGTH 15
extern const u8 START[START_LENGTH];
#define START_PAGE 0x6000ull // of low memory; nobody uses it once Linux runs
#define SEEN (START_PAGE + 0x800)
// Writes START to START_PAGE, and 0 to SEEN; where low memory's page is mapped.
u64 prepare_start(void);
// The same, with code that first says on the console that this attack succeeded, for when nobody else can; it may reset the
// machine in the end. Again where low memory's page is mapped.
u64 prepare_start_saying(const char *name, const char *detail, int reset);
// Whether MARK comes to be in SEEN within some seconds; low memory's page as above.
int seen(u64 page);

void *user_page(void); // writable, present
void *user_pages(size_t count);

// The runner sleeps from now on for two seconds, and an MSR is put back in half a second: what is done to it meanwhile
// meets nobody else's system calls.
void alone_with_msr(u32 msr);
// A #GP or #UD in user mode is a refusal from now on.
void expect_fault(void);
// SecVisor's counter at an index; all ones without SecVisor, or if there is none.
u64 counter(u64 index);

#define PRESENT 1ull
#define WRITABLE 2ull
#define USER 4ull
#define LARGE 0x80ull
#define GLOBAL 0x100ull
#define NX (1ull << 63)
#define KERNEL_DATA (PRESENT | WRITABLE | 0x60 | NX)
#define KERNEL_CODE (PRESENT | WRITABLE | 0x60)
#define FRAME 0x000ffffffffff000ull
#define PAGE 4096ull

#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_SFMASK 0xc0000084u

// endbr64; mov eax, 0x1337; ret
#define MARK 0x1337
#define CODE_LENGTH 10
extern const u8 CODE[CODE_LENGTH];

// Calls CODE where it lies; ends the attack.
__attribute__((noreturn)) void call_code(u64 address, const char *place);

// A system call that nobody needs, on a page that nothing urgent shares.
#define VICTIM "__x64_sys_keyctl"
long victim(void);
// Whether VICTIM, written to a moment ago, runs CODE; ends the attack. `before` is what it used to return.
__attribute__((noreturn)) void judge_victim(long before, const u8 *approved_bytes, const char *how);

// The processor's tables.
struct tables {
	u64 idt, gdt, tss;
	u16 idt_limit, gdt_limit, task;
};
struct tables tables(void);
// A gate that user mode may use, to this handler in the kernel's code segment: of the IDT, of the GDT or an LDT.
void interrupt_gate(u8 to[16], u64 handler, unsigned stack);
void call_gate(u8 to[16], u64 handler);
// CALL FAR by this selector, with the kernel's GS in case that the kernel must clean up.
long call_far(u16 selector, u64 gs_of_kernel);
// Where SecVisor is: the last large range that the memory map calls reserved and that lies within memory.
u64 hypervisor(void);

// Runs a system call with the kernel's GS and a stack of ours, so that the kernel outlives what it finds at the entry.
// `number` goes into RAX, what the system call leaves there is returned.
long syscall_prepared(long number);
// As above, but by INT 81h.
long interrupt_prepared(void);
// Both need this first.
void prepare_entry(void);

void insert_module(const char *path); // ends as refused or failed if it cannot
int load_module(const char *path); // 0 or errno
long parameter(const char *name); // of the module `target`: what its function of that name returns
int remove_module(const char *name);
int read_file(const char *path, char *to, size_t room); // 0 or errno
int write_file(const char *path, const char *text); // 0 or errno
#endif
