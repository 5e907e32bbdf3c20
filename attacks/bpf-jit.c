// Row 16. A BPF program, compiled by the kernel to code of the user's shape.
// Source: JIT spraying (McAllister 2012; CVE-2021-29154 and kin).
// Ends: natively succeeded; beneath SecVisor refused, unapproved-code.
#include "common/attack.h"
#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

ATTACK("bpf-jit")
{
	struct bpf_insn program[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = MARK },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	u8 packet[64] = { 0 };
	union bpf_attr load, test;
	int fd;

	write_file("/proc/sys/net/core/bpf_jit_enable", "1\n");
	memset(&load, 0, sizeof(load));
	load.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
	load.insns = (u64)program;
	load.insn_cnt = 2;
	load.license = (u64) "GPL";
	fd = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));
	if (fd < 0)
		refused("no program is loaded: %s", strerror(errno));
	memset(&test, 0, sizeof(test));
	test.test.prog_fd = fd;
	test.test.data_in = (u64)packet;
	test.test.data_size_in = sizeof(packet);
	about_to("run what the BPF compiler made");
	if (syscall(SYS_bpf, BPF_PROG_TEST_RUN, &test, sizeof(test)))
		failed("it does not run: %s", strerror(errno));
	struct bpf_prog_info info = { 0 };
	union bpf_attr ask;
	memset(&ask, 0, sizeof(ask));
	ask.info.bpf_fd = fd;
	ask.info.info_len = sizeof(info);
	ask.info.info = (u64)&info;
	syscall(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &ask, sizeof(ask));
	if (test.test.retval == MARK && info.jited_prog_len)
		succeeded("%u bytes of compiled code ran and returned %#x", info.jited_prog_len, MARK);
	if (test.test.retval == MARK)
		harmless("the interpreter ran it");
	failed("it returned %#x", test.test.retval);
}
