/* SPDX-License-Identifier: GPL-2.0 */
/* What /dev/vulnerable offers to anyone who may open it. */
#ifndef VULNERABLE_H
#define VULNERABLE_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Bytes at a kernel address. */
struct vulnerable_bytes {
	__u64 address;
	__u64 length;
	__u8 bytes[64];
};

/* Bits to clear, then bits to set, in CR0 and CR4; their values afterwards are returned. */
struct vulnerable_control {
	__u64 cr0_clear;
	__u64 cr0_set;
	__u64 cr4_clear;
	__u64 cr4_set;
	__u64 cr0;
	__u64 cr4;
};

/* What else can be done: a number of enum vulnerable_what, what it takes, what it gives. */
struct vulnerable_operation {
	__u64 what;
	__u64 in[8];
	__u64 out[4];
};

enum vulnerable_what {
	VULNERABLE_RDMSR, /* number -> value */
	VULNERABLE_WRMSR, /* number, value */
	VULNERABLE_RDCR, /* number -> value */
	VULNERABLE_WRCR, /* number, value, past Linux's pinning */
	VULNERABLE_IN, /* port, bytes -> value */
	VULNERABLE_OUT, /* port, bytes, value */
	VULNERABLE_MAP, /* physical address of a page, flags of its page-table entry -> address */
	VULNERABLE_ENTRY, /* address, root or 0 -> address of the page-table entry, the entry, low bits left alone */
	VULNERABLE_STORE, /* address, value, bytes: a plain store */
	VULNERABLE_FLUSH, /* an address or 0 for all: translations forgotten */
	VULNERABLE_TABLES, /* -> base of the IDT, of the GDT, limits (IDT, GDT << 16), LDT selector | task << 16 */
	VULNERABLE_LIDT, /* base, limit */
	VULNERABLE_LGDT, /* base, limit */
	VULNERABLE_LLDT, /* selector */
	VULNERABLE_LTR, /* selector */
	VULNERABLE_CALL_WITH, /* address, five arguments, 1 for interrupts off -> result, flags afterwards */
	VULNERABLE_CALL_STACK, /* up to 56 bytes of code -> what it returned: runs on the stack, NX cleared */
	VULNERABLE_FAR_RETURN, /* address, code segment -> RAX: the code jumps to what is in RCX */
	VULNERABLE_IRET, /* the same by an interrupt's frame */
	VULNERABLE_SVM, /* last opcode byte (d8 to df), RAX, ECX -> 1 + number of the exception, or 0 */
	VULNERABLE_VMALLOC, /* bytes -> address, never freed */
	VULNERABLE_BSS, /* -> address of a page of the module's bss */
	VULNERABLE_GS, /* -> base of GS in the kernel */
	VULNERABLE_WRMSR_LATER, /* number, value, milliseconds, value, milliseconds: by a timer, whoever runs then; the
				   second value so much later, unless 0 */
	VULNERABLE_CALL_UNDER, /* number, value, address -> result: called while the MSR has this value */
	VULNERABLE_HYPERCALL, /* RAX, RDI, RSI, RDX, RCX, R8 -> RAX, 1 if another register changed */
	VULNERABLE_LOAD, /* address -> value: a plain load of 4 bytes */
	VULNERABLE_TOGGLE, /* address, value, milliseconds, value, milliseconds, times: 8 bytes stored without pause, one
			      value for so long, then the other, the whole so many times */
};

/* Reads bytes at a kernel address. */
#define VULNERABLE_READ _IOWR('V', 1, struct vulnerable_bytes)
/* Writes bytes at a kernel address, whether or not it is mapped writable: through a mapping of its own. */
#define VULNERABLE_WRITE _IOW('V', 2, struct vulnerable_bytes)
/* Calls a function without arguments; its address goes in, its result comes out. */
#define VULNERABLE_CALL _IOWR('V', 3, __u64)
/* Allocates a page of kernel heap, never freed, and returns its address. */
#define VULNERABLE_ALLOCATE _IOR('V', 4, __u64)
/* Lets the page at an address be executed: clears NX in every page-table entry that leads to it. */
#define VULNERABLE_EXECUTABLE _IOW('V', 5, __u64)
/* Changes CR0 and CR4, past Linux's pinning of their bits. */
#define VULNERABLE_CONTROL _IOWR('V', 6, struct vulnerable_control)
/* See enum vulnerable_what. */
#define VULNERABLE_OPERATE _IOWR('V', 7, struct vulnerable_operation)

#endif
