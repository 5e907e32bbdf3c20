//! What an approval says of a kernel against the memory of one that has booted without SecVisor.

use crate::initrd::Initrd;
use crate::kernel::{Kernel, Line};
use crate::machine::{Boot, Machine};
use crate::run::{CMDLINE, FIXED};
use crate::workspace;
use anyhow::{Result, ensure};
use std::time::Duration;
use xshell::cmd;

/// So much of the machine's memory holds the kernel where it was linked, and low memory.
const SAVED: u64 = 128 << 20;

/// Every byte of the kernel's code in memory is one that the approval allows, and so is what runs in low memory: tests of
/// the host tool, with a memory to look at.
pub fn with_memory(line: Line) -> Result<()> {
    let kernel = Kernel::obtain(line)?;
    let name = format!("agreement-{}", line.name());
    let file = workspace::target().join(format!("guests/{name}.cpio"));
    let initrd = Initrd::new()?.script("echo agreement: booted; read wait").write(&file)?;
    let boot = Boot::Native { vmlinuz: kernel.vmlinuz.clone(), initrd, cmdline: format!("{CMDLINE} {FIXED}") };
    let mut guest = Machine::new(&name).start(&boot)?;
    guest.wait_for("agreement: booted", Duration::from_secs(120))?;
    let memory = guest.logs().join("memory");
    guest.control().save_memory(0, SAVED, &memory)?;
    guest.say("")?;
    guest.wait_end(Duration::from_secs(120))?;
    let shell = workspace::shell()?;
    let tests = cmd!(shell, "cargo test --quiet -p secvisor --test booted_guest --test trampoline -- --ignored")
        .env("SECVISOR_GUEST_KERNEL", &kernel.vmlinuz)
        .env("SECVISOR_GUEST_MEMORY", &memory)
        .env("SECVISOR_GUEST_INIT_FREED", "1");
    let output = tests.quiet().ignore_status().output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let passed = text.matches("1 passed").count();
    ensure!(output.status.success() && passed == 2, "{passed} of 2 agree; memory in {}:\n{text}", memory.display());
    std::fs::remove_file(memory)?;
    guest.finish()
}
