// SPDX-License-Identifier: GPL-2.0
/*
 * A livepatch that replaces a system call. It is approved: what is refused is not its code but how Linux would have the
 * system call lead to it.
 */
#include <linux/livepatch.h>
#include <linux/module.h>

static long patched(const struct pt_regs *regs)
{
	return 0x1337;
}

static struct klp_func functions[] = { { .old_name = "__x64_sys_keyctl", .new_func = patched }, {} };
static struct klp_object objects[] = { { .funcs = functions }, {} };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objects };

static int __init livepatch_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit livepatch_exit(void)
{
}

module_init(livepatch_init);
module_exit(livepatch_exit);
MODULE_DESCRIPTION("Replaces a system call");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
