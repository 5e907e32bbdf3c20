// Row 16. A BPF program of the user's (a seccomp filter), compiled by the kernel to code of the user's shape.
// Source: JIT spraying (McAllister 2012; CVE-2021-29154 and kin).
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

ATTACK("bpf-jit")
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 0x137),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(*code), code };
	char enabled[8];
	long result;

	if (write_file("/proc/sys/net/core/bpf_jit_enable", "1\n") ||
	    read_file("/proc/sys/net/core/bpf_jit_enable", enabled, sizeof(enabled)) || enabled[0] != '1')
		refused("the compiler stays off");
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	about_to("run what the BPF compiler makes of a filter");
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		refused("no filter is taken: %s", strerror(errno));
	errno = 0;
	result = syscall(SYS_getppid);
	if (result == -1 && errno == 0x137)
		succeeded("a compiled filter answered the system call with error %#x", 0x137);
	failed("the system call returned %ld", result);
}
