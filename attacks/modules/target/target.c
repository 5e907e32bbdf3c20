// SPDX-License-Identifier: GPL-2.0
/*
 * An approved module to be attacked: one site of every kind the kernel patches, each behind a parameter to be read,
 * none of which runs before that.
 */
#include <linux/init.h>
#include <linux/jump_label.h>
#include <linux/module.h>
#include <linux/static_call.h>
#include <asm/irqflags.h>
#include <asm/smap.h>

/* 42, unless somebody has changed the code. It has a call, never made, that depends on where the module lies. */
static noinline __aligned(64) long target_answer(void)
{
	int never;

	asm volatile("xor %0, %0" : "=r"(never));
	if (unlikely(never))
		dump_stack();
	return 42;
}

DEFINE_STATIC_KEY_FALSE(target_key);

/* 42; 4919 if it comes to an end at its jump label. */
static noinline __aligned(64) void target_jump(volatile long *slot)
{
	*slot = 0x1337;
	if (static_branch_unlikely(&target_key))
		*slot = 7;
	*slot = 42;
}

static long read_jump(void)
{
	long slot;

	target_jump(&slot);
	return slot;
}

static noinline __aligned(64) long target_one(void)
{
	barrier();
	return 1;
}

static noinline __aligned(64) long target_two(void)
{
	barrier();
	return 0x1337;
}

DEFINE_STATIC_CALL(target_call, target_one);

static noinline __aligned(64) long target_called(void)
{
	long result = static_call(target_call)();

	barrier();
	return result;
}

/* Never read; it keeps target_two. */
static long read_two(void)
{
	return target_two();
}

/* Whether user pages are still within reach after CLAC. */
static noinline __aligned(64) long target_clac(void)
{
	unsigned long flags;

	stac();
	clac();
	flags = native_save_fl();
	asm volatile("pushfq; andl $~0x40000, (%%rsp); popfq" : : : "memory", "cc");
	return !!(flags & X86_EFLAGS_AC);
}

/* The same with CLAC across two pages: its first two bytes end one, its last begins the next. */
static noinline long target_straddle(void)
{
	unsigned long flags;

	asm volatile("jmp 1f; .balign 4096, 0x90; .fill 4090, 1, 0x90; 1: stac; nop" : : : "memory");
	clac();
	flags = native_save_fl();
	asm volatile("pushfq; andl $~0x40000, (%%rsp); popfq" : : : "memory", "cc");
	return !!(flags & X86_EFLAGS_AC);
}

/*
 * For bsearch to call: 0 if it was called through a retpoline, which leaves the address it goes to where it took its
 * own return address from.
 */
int target_probe(const void *key, const void *element);
noinline int target_probe(const void *key, const void *element)
{
	unsigned long left;

	asm volatile("mov -8(%%rsp), %0; movq $0, -8(%%rsp)" : "=r"(left) : : "memory");
	return left != (unsigned long)target_probe;
}
EXPORT_SYMBOL_GPL(target_probe);

static int read_parameter(char *buffer, const struct kernel_param *parameter)
{
	return sprintf(buffer, "%ld\n", ((long (*)(void))parameter->arg)());
}

static const struct kernel_param_ops reading = { .get = read_parameter };
module_param_cb(answer, &reading, target_answer, 0444);
module_param_cb(jump, &reading, read_jump, 0444);
module_param_cb(called, &reading, target_called, 0444);
module_param_cb(two, &reading, read_two, 0444);
module_param_cb(clac, &reading, target_clac, 0444);
module_param_cb(straddle, &reading, target_straddle, 0444);

static int __init target_init(void)
{
	return 0;
}

static void __exit target_exit(void)
{
}

module_init(target_init);
module_exit(target_exit);
MODULE_DESCRIPTION("Is attacked");
MODULE_LICENSE("GPL");
