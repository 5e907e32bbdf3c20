// Row 22. Hypercalls with wild numbers and indices from user mode: none may answer, none may tell an address.
// Source: threat table; out-of-bounds indices in hypercall interfaces.
// Ends: natively succeeded; beneath SecVisor refused.
#include "common/attack.h"

ATTACK("hypercall-wild")
{
	static const u64 wild[] = { 200, 255, 256 + 128, 511, 4096, 1ull << 31, 1ull << 32, (1ull << 32) + 8, 1ull << 60,
				    1ull << 61, (1ull << 61) + 16, 1ull << 63, ~0ull - 255, ~0ull };
	const unsigned known = counter(12) >> 32;
	u64 value;

	for (u64 index = 16 + known; index < 256; index++)
		if (index != 32 && index != 33 && (value = counter(index)) != ~0ull)
			succeeded("index %llu answers %#llx", (unsigned long long)index, (unsigned long long)value);
	for (unsigned i = 0; i < sizeof(wild) / sizeof(*wild); i++)
		if ((value = counter(wild[i])) != ~0ull)
			succeeded("index %#llx answers %#llx", (unsigned long long)wild[i], (unsigned long long)value);
	for (u64 number = 0x53564301; number; number <<= 1) {
		__asm__ volatile("vmmcall" : "=a"(value) : "a"(number), "D"(~0ull), "S"(~0ull), "d"(~0ull) : "memory");
		if (value != ~0ull)
			succeeded("hypercall %#llx answers %#llx", (unsigned long long)number, (unsigned long long)value);
	}
	for (u64 index = 0; index < 34; index++)
		if ((value = counter(index)) != ~0ull && value >> 47 == 0x1ffff)
			succeeded("index %llu tells an address: %#llx", (unsigned long long)index, (unsigned long long)value);
	refused("every one answers with ones");
}
