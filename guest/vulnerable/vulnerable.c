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
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <asm/io.h>
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
static u64 *find_entry(unsigned long address, bool clear_nx, unsigned int *shift)
{
	u64 *table, *entry;
	u64 cr3;

	asm volatile("mov %%cr3, %0" : "=r"(cr3));
	table = phys_to_virt(cr3 & PTE_PFN_MASK);
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
