// SPDX-License-Identifier: GPL-2.0
/*
 * A driver with every hole an attacker could wish for.
 *
 * It is approved: SecVisor's promise must hold although such code runs in kernel mode. Nothing here holds a
 * lock, so that a process which dies in the middle leaves nothing behind.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/timer.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <asm/asm.h>
#include <asm/desc.h>
#include <asm/io.h>
#include <asm/msr.h>
#include <asm/processor-flags.h>

#include "vulnerable.h"

#define ENTRIES_PER_TABLE 512
#define BITS_PER_LEVEL 9

static u64 read_cr0_plainly(void)
{
	u64 value;

	asm volatile("mov %%cr0, %0" : "=r"(value));
	return value;
}

static u64 read_cr4_plainly(void)
{
	u64 value;

	asm volatile("mov %%cr4, %0" : "=r"(value));
	return value;
}

/*
 * Walks the current page tables by hand. Returns the entry that maps the address, and how many low bits of the
 * address it leaves alone; optionally clears NX on the way.
 */
static u64 *find_entry_below(u64 root, unsigned long address, bool clear_nx, unsigned int *shift)
{
	u64 *table, *entry;

	table = phys_to_virt(root & PTE_PFN_MASK);
	*shift = read_cr4_plainly() & X86_CR4_LA57 ? P4D_SHIFT + BITS_PER_LEVEL : P4D_SHIFT;
	for (;; *shift -= BITS_PER_LEVEL) {
		entry = &table[(address >> *shift) % ENTRIES_PER_TABLE];
		if (!(*entry & _PAGE_PRESENT))
			return NULL;
		if (clear_nx)
			*entry &= ~_PAGE_NX;
		if (*shift == PAGE_SHIFT || (*entry & _PAGE_PSE))
			return entry;
		table = phys_to_virt(*entry & PTE_PFN_MASK);
	}
}

static u64 read_cr3_plainly(void)
{
	u64 value;

	asm volatile("mov %%cr3, %0" : "=r"(value));
	return value;
}

static u64 *find_entry(unsigned long address, bool clear_nx, unsigned int *shift)
{
	return find_entry_below(read_cr3_plainly(), address, clear_nx, shift);
}

static struct page *find_page(unsigned long address)
{
	unsigned int shift;
	u64 *entry = find_entry(address, false, &shift);
	u64 offset;

	if (!entry)
		return NULL;
	offset = BIT_ULL(shift) - 1;
	return pfn_to_page(((*entry & PTE_PFN_MASK & ~offset) | (address & offset)) >> PAGE_SHIFT);
}

/* Writes bytes of one page through a second, writable mapping of it. */
static int write_within_page(unsigned long address, const u8 *bytes, size_t length)
{
	struct page *page = find_page(address);
	u8 *alias;

	if (!page)
		return -EFAULT;
	alias = vmap(&page, 1, VM_MAP, PAGE_KERNEL);
	if (!alias)
		return -ENOMEM;
	memcpy(alias + offset_in_page(address), bytes, length);
	vunmap(alias);
	return 0;
}

static int write_bytes(const struct vulnerable_bytes *request)
{
	size_t done = 0;

	while (done < request->length) {
		unsigned long address = request->address + done;
		size_t length = min_t(size_t, request->length - done, PAGE_SIZE - offset_in_page(address));
		int error = write_within_page(address, request->bytes + done, length);

		if (error)
			return error;
		done += length;
	}
	return 0;
}

static long transfer(unsigned int command, void __user *argument)
{
	struct vulnerable_bytes request;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.length > sizeof(request.bytes))
		return -EINVAL;
	if (command == VULNERABLE_WRITE)
		return write_bytes(&request);
	memcpy(request.bytes, (const void *)(unsigned long)request.address, request.length);
	return copy_to_user(argument, &request, sizeof(request)) ? -EFAULT : 0;
}

static long call(u64 __user *argument)
{
	u64 address;

	if (get_user(address, argument))
		return -EFAULT;
	return put_user(((u64 (*)(void))(unsigned long)address)(), argument);
}

static long allocate(u64 __user *argument)
{
	void *page = kzalloc(PAGE_SIZE, GFP_KERNEL);

	return page ? put_user((u64)(unsigned long)page, argument) : -ENOMEM;
}

static long make_executable(u64 __user *argument)
{
	unsigned int shift;
	u64 address;

	if (get_user(address, argument))
		return -EFAULT;
	if (!find_entry(address, true, &shift))
		return -EFAULT;
	asm volatile("invlpg (%0)" : : "r"(address) : "memory");
	return 0;
}

static long control(struct vulnerable_control __user *argument)
{
	struct vulnerable_control request;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	request.cr0 = (read_cr0_plainly() & ~request.cr0_clear) | request.cr0_set;
	asm volatile("mov %0, %%cr0" : : "r"(request.cr0) : "memory");
	request.cr4 = (read_cr4_plainly() & ~request.cr4_clear) | request.cr4_set;
	asm volatile("mov %0, %%cr4" : : "r"(request.cr4) : "memory");
	request.cr0 = read_cr0_plainly();
	request.cr4 = read_cr4_plainly();
	return copy_to_user(argument, &request, sizeof(request)) ? -EFAULT : 0;
}

static u8 bss_page[PAGE_SIZE] __aligned(PAGE_SIZE);

static long operate_registers(struct vulnerable_operation *op)
{
	struct desc_ptr pointer = { .size = op->in[1], .address = op->in[0] };
	struct desc_ptr idt, gdt;
	u16 ldt, task;
	u64 value = 0;
	int error = 0;

	switch (op->what) {
	case VULNERABLE_RDMSR:
		op->out[0] = native_read_msr_safe(op->in[0], &error);
		return error;
	case VULNERABLE_WRMSR:
		return native_write_msr_safe(op->in[0], op->in[1], op->in[1] >> 32);
	case VULNERABLE_RDCR:
		switch (op->in[0]) {
		case 0:
			value = read_cr0_plainly();
			break;
		case 3:
			value = read_cr3_plainly();
			break;
		case 4:
			value = read_cr4_plainly();
			break;
		}
		op->out[0] = value;
		return 0;
	case VULNERABLE_WRCR:
		switch (op->in[0]) {
		case 0:
			asm volatile("mov %0, %%cr0" : : "r"(op->in[1]) : "memory");
			break;
		case 3:
			asm volatile("mov %0, %%cr3" : : "r"(op->in[1]) : "memory");
			break;
		case 4:
			asm volatile("mov %0, %%cr4" : : "r"(op->in[1]) : "memory");
			break;
		}
		return 0;
	case VULNERABLE_TABLES:
		asm volatile("sidt %0; sgdt %1; sldt %2; str %3" : "=m"(idt), "=m"(gdt), "=m"(ldt), "=m"(task));
		op->out[0] = idt.address;
		op->out[1] = gdt.address;
		op->out[2] = idt.size | (u64)gdt.size << 16;
		op->out[3] = ldt | (u64)task << 16;
		return 0;
	case VULNERABLE_LIDT:
		asm volatile("lidt %0" : : "m"(pointer));
		return 0;
	case VULNERABLE_LGDT:
		asm volatile("lgdt %0" : : "m"(pointer));
		return 0;
	case VULNERABLE_LLDT:
		asm volatile("lldt %w0" : : "r"((u16)op->in[0]));
		return 0;
	case VULNERABLE_LTR:
		asm volatile("ltr %w0" : : "r"((u16)op->in[0]));
		return 0;
	case VULNERABLE_GS:
		op->out[0] = native_read_msr_safe(MSR_GS_BASE, &error);
		return error;
	}
	return -EINVAL;
}

static long operate_port(struct vulnerable_operation *op)
{
	bool in = op->what == VULNERABLE_IN;
	u16 port = op->in[0];

	switch (op->in[1]) {
	case 1:
		in ? (void)(op->out[0] = inb(port)) : outb(op->in[2], port);
		return 0;
	case 2:
		in ? (void)(op->out[0] = inw(port)) : outw(op->in[2], port);
		return 0;
	case 4:
		in ? (void)(op->out[0] = inl(port)) : outl(op->in[2], port);
		return 0;
	}
	return -EINVAL;
}

/* Maps any physical page, RAM or not, with any rights: the entry of a harmless mapping is replaced. */
static long map(struct vulnerable_operation *op)
{
	struct page *page = alloc_page(GFP_KERNEL);
	unsigned int shift;
	void *address;
	u64 *entry;

	if (!page)
		return -ENOMEM;
	address = vmap(&page, 1, VM_MAP, PAGE_KERNEL);
	if (!address)
		return -ENOMEM;
	entry = find_entry((unsigned long)address, false, &shift);
	if (!entry || shift != PAGE_SHIFT)
		return -EFAULT;
	*entry = op->in[0] | op->in[1];
	asm volatile("invlpg (%0)" : : "r"(address) : "memory");
	op->out[0] = (unsigned long)address;
	return 0;
}

static long entry_of(struct vulnerable_operation *op)
{
	unsigned int shift;
	u64 *entry = find_entry_below(op->in[1] ?: read_cr3_plainly(), op->in[0], false, &shift);

	if (!entry)
		return -EFAULT;
	op->out[0] = (unsigned long)entry;
	op->out[1] = *entry;
	op->out[2] = shift;
	return 0;
}

static long store(const struct vulnerable_operation *op)
{
	void *at = (void *)(unsigned long)op->in[0];

	switch (op->in[2]) {
	case 1:
		*(volatile u8 *)at = op->in[1];
		return 0;
	case 2:
		*(volatile u16 *)at = op->in[1];
		return 0;
	case 4:
		*(volatile u32 *)at = op->in[1];
		return 0;
	case 8:
		*(volatile u64 *)at = op->in[1];
		return 0;
	}
	return -EINVAL;
}

static long toggle(const struct vulnerable_operation *op)
{
	volatile u64 *at = (void *)(unsigned long)op->in[0];
	unsigned long end;

	for (u64 half = 0; half < 2 * op->in[5]; half++) {
		u64 value = op->in[half % 2 ? 3 : 1];

		/* The whole at least once, however short its time. */
		end = jiffies + msecs_to_jiffies(op->in[half % 2 ? 4 : 2]);
		do
			*at = value;
		while (time_before(jiffies, end));
		if (signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

static void flush(u64 address)
{
	u64 cr4;

	if (address) {
		asm volatile("invlpg (%0)" : : "r"(address) : "memory");
		return;
	}
	cr4 = read_cr4_plainly();
	asm volatile("mov %0, %%cr4" : : "r"(cr4 & ~X86_CR4_PGE) : "memory");
	asm volatile("mov %0, %%cr4" : : "r"(cr4) : "memory");
}

static long call_with(struct vulnerable_operation *op)
{
	u64 (*function)(u64, u64, u64, u64, u64) = (void *)(unsigned long)op->in[0];
	unsigned long flags;

	if (op->in[6])
		local_irq_save(flags);
	op->out[0] = function(op->in[1], op->in[2], op->in[3], op->in[4], op->in[5]);
	/* Whoever is called may have left user pages within reach. */
	asm volatile("pushfq; pushq (%%rsp); popq %0; andl $~0x40000, (%%rsp); popfq" : "=r"(op->out[1]) : : "memory", "cc");
	if (op->in[6])
		local_irq_restore(flags);
	return 0;
}

static long call_stack(struct vulnerable_operation *op)
{
	unsigned int shift;

	if (!find_entry((unsigned long)op->in, true, &shift))
		return -EFAULT;
	asm volatile("invlpg (%0)" : : "r"(op->in) : "memory");
	op->out[0] = ((u64(*)(void))(void *)op->in)();
	return 0;
}

static long go_far(struct vulnerable_operation *op)
{
	u64 result;

	if (op->what == VULNERABLE_FAR_RETURN)
		asm volatile("lea 1f(%%rip), %%rcx; push %2; push %1; lretq; 1:"
			     : "=a"(result)
			     : "r"(op->in[0]), "r"(op->in[1])
			     : "rcx", "memory", "cc");
	else
		asm volatile("mov %%rsp, %%rdx; mov %%ss, %%ecx; push %%rcx; push %%rdx; pushfq; push %2; push %1; lea 1f(%%rip), %%rcx; iretq; 1:"
			     : "=a"(result)
			     : "r"(op->in[0]), "r"(op->in[1])
			     : "rcx", "rdx", "memory", "cc");
	op->out[0] = result;
	return 0;
}

#define SVM_INSTRUCTION(byte)                                                                             \
	asm volatile("1: .byte 0x0f, 0x01, " #byte "; xor %%eax, %%eax; jmp 3f; 2: inc %%eax; 3:\n"         \
		     _ASM_EXTABLE_FAULT(1b, 2b)                                                           \
		     : "+a"(rax) : "c"(op->in[2]) : "memory", "cc", "rbx", "rdx")

static long svm(struct vulnerable_operation *op)
{
	u64 rax = op->in[1];

	switch (op->in[0]) {
	case 0xd8:
		SVM_INSTRUCTION(0xd8);
		break;
	case 0xda:
		SVM_INSTRUCTION(0xda);
		break;
	case 0xdb:
		SVM_INSTRUCTION(0xdb);
		break;
	case 0xdc:
		SVM_INSTRUCTION(0xdc);
		break;
	case 0xdd:
		SVM_INSTRUCTION(0xdd);
		break;
	case 0xde:
		SVM_INSTRUCTION(0xde);
		break;
	case 0xdf:
		SVM_INSTRUCTION(0xdf);
		break;
	default:
		return -EINVAL;
	}
	op->out[0] = rax;
	return 0;
}

static u64 later_msr, later_value, then_value, then_delay;

static void write_msr_now(struct timer_list *timer)
{
	native_write_msr_safe(later_msr, later_value, later_value >> 32);
	if (!then_delay)
		return;
	later_value = then_value;
	mod_timer(timer, jiffies + msecs_to_jiffies(then_delay));
	then_delay = 0;
}

/* The register is this CPU's. */
static struct timer_list later = __TIMER_INITIALIZER(write_msr_now, TIMER_PINNED);

/* Neither the stack nor what is called may lie in a page with NX: the register may be EFER, and NXE cleared. */
static long call_under(struct vulnerable_operation *op)
{
	unsigned long here = (unsigned long)__builtin_frame_address(0);
	u32 msr = op->in[0];
	unsigned int shift;
	unsigned long flags;
	int error = 0;
	u64 before;

	for (long page = -1; page <= 1; page++)
		find_entry(here + page * (long)PAGE_SIZE, true, &shift);
	find_entry(op->in[2], true, &shift);
	local_irq_save(flags);
	flush(0);
	before = native_read_msr_safe(msr, &error);
	error = error ?: native_write_msr_safe(msr, op->in[1], op->in[1] >> 32);
	if (!error) {
		op->out[0] = ((u64(*)(void))(unsigned long)op->in[2])();
		native_write_msr_safe(msr, before, before >> 32);
	}
	local_irq_restore(flags);
	return error;
}

static long hypercall(struct vulnerable_operation *op)
{
	register u64 r8 asm("r8") = op->in[5];
	u64 rax = op->in[0], rdi = op->in[1], rsi = op->in[2], rdx = op->in[3], rcx = op->in[4];

	asm volatile("vmmcall" : "+a"(rax), "+D"(rdi), "+S"(rsi), "+d"(rdx), "+c"(rcx), "+r"(r8) : : "memory");
	op->out[0] = rax;
	op->out[1] = rdi != op->in[1] || rsi != op->in[2] || rdx != op->in[3] || rcx != op->in[4] || r8 != op->in[5];
	return 0;
}

static long perform(struct vulnerable_operation *op)
{
	switch (op->what) {
	case VULNERABLE_IN:
	case VULNERABLE_OUT:
		return operate_port(op);
	case VULNERABLE_MAP:
		return map(op);
	case VULNERABLE_ENTRY:
		return entry_of(op);
	case VULNERABLE_STORE:
		return store(op);
	case VULNERABLE_LOAD:
		op->out[0] = *(volatile u32 *)(unsigned long)op->in[0];
		return 0;
	case VULNERABLE_TOGGLE:
		return toggle(op);
	case VULNERABLE_FLUSH:
		flush(op->in[0]);
		return 0;
	case VULNERABLE_CALL_WITH:
		return call_with(op);
	case VULNERABLE_CALL_STACK:
		return call_stack(op);
	case VULNERABLE_FAR_RETURN:
	case VULNERABLE_IRET:
		return go_far(op);
	case VULNERABLE_SVM:
		return svm(op);
	case VULNERABLE_VMALLOC:
		op->out[0] = (unsigned long)vzalloc(op->in[0]);
		return op->out[0] ? 0 : -ENOMEM;
	case VULNERABLE_WRMSR_LATER:
		later_msr = op->in[0];
		later_value = op->in[1];
		then_value = op->in[3];
		then_delay = op->in[4];
		mod_timer(&later, jiffies + msecs_to_jiffies(op->in[2]));
		return 0;
	case VULNERABLE_CALL_UNDER:
		return call_under(op);
	case VULNERABLE_HYPERCALL:
		return hypercall(op);
	case VULNERABLE_BSS:
		op->out[0] = (unsigned long)bss_page;
		return 0;
	default:
		return operate_registers(op);
	}
}

static long operate(void __user *argument)
{
	struct vulnerable_operation op;
	long error;

	if (copy_from_user(&op, argument, sizeof(op)))
		return -EFAULT;
	error = perform(&op);
	if (error)
		return error;
	return copy_to_user(argument, &op, sizeof(op)) ? -EFAULT : 0;
}

static long vulnerable_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	void __user *pointer = (void __user *)argument;

	switch (command) {
	case VULNERABLE_READ:
	case VULNERABLE_WRITE:
		return transfer(command, pointer);
	case VULNERABLE_CALL:
		return call(pointer);
	case VULNERABLE_ALLOCATE:
		return allocate(pointer);
	case VULNERABLE_EXECUTABLE:
		return make_executable(pointer);
	case VULNERABLE_CONTROL:
		return control(pointer);
	case VULNERABLE_OPERATE:
		return operate(pointer);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations vulnerable_operations = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = vulnerable_ioctl,
};

static struct miscdevice vulnerable_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "vulnerable",
	.fops = &vulnerable_operations,
	.mode = 0600,
};

module_misc_device(vulnerable_device);
MODULE_DESCRIPTION("Lets user space do to the kernel what a bug would");
MODULE_LICENSE("GPL");
