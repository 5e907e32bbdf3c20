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

#endif
