//! `cargo xtask run`: one guest, its console on ours.

use crate::guest::End;
use crate::initrd::Initrd;
use crate::kernel::{Kernel, Line};
use crate::qemu::{Boot, Machine};
use crate::workspace;
use anyhow::{Result, ensure};
use std::time::Duration;

/// What every guest's kernel is told.
pub const CMDLINE: &str = "console=ttyS0,115200 nokaslr panic=-1";

/// Boots a stock kernel without SecVisor, runs `script` in it and powers off.
pub fn native(line: Line, script: &str, memory_mib: u32, cpus: u32) -> Result<()> {
    let kernel = Kernel::obtain(line)?;
    let initrd = Initrd::new()?.script(script).write(&workspace::target().join("guests/run.cpio"))?;
    let mut machine = Machine::new("run");
    machine.memory_mib = memory_mib;
    machine.cpus = cpus;
    let boot = Boot::Native { vmlinuz: kernel.vmlinuz, initrd, cmdline: CMDLINE.to_string() };
    let mut guest = machine.start(&boot)?;
    guest.wait_for("secvisor-guest: userland", Duration::from_secs(120))?;
    let end = guest.wait_end(Duration::from_secs(600))?;
    println!("{}", guest.console().join("\n"));
    ensure!(end == End::PoweredOff, "the guest ended by {end:?}; {}", guest.where_to_look());
    guest.finish()
}
