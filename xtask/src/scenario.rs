//! Boots in QEMU, each a story with a verdict.

use crate::guest::End;
use crate::initrd::Initrd;
use crate::kernel::{Kernel, Line};
use crate::module::build_module;
use crate::qemu::{Boot, Machine};
use crate::run::{self, CMDLINE, Loader};
use crate::workspace;
use anyhow::{Result, ensure};
use std::time::Duration;

/// One story.
pub struct Scenario {
    /// What it shows.
    pub name: String,
    /// Tells it; an error is its failure.
    pub run: Box<dyn Fn() -> Result<()>>,
}

/// Every story there is.
pub fn all() -> Vec<Scenario> {
    let on_each = |name: &str, run: fn(Line) -> Result<()>| {
        Line::USUAL.map(|line| Scenario { name: format!("{name}-{}", line.name()), run: Box::new(move || run(line)) })
    };
    [
        on_each("native-module", native_module),
        on_each("demonstration", |line| run::demonstration(line, Loader::Direct)),
        on_each("demonstration-bios", |line| run::demonstration(line, Loader::Bios)),
        on_each("demonstration-uefi", |line| run::demonstration(line, Loader::Uefi)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Without SecVisor a module of ours loads and unloads: the ground that refusals are measured against.
fn native_module(line: Line) -> Result<()> {
    let kernel = Kernel::obtain(line)?;
    let mut initrd = Initrd::new()?;
    let hello = build_module(&kernel, &workspace::root().join("xtask/guest/hello"))?;
    initrd.add_file("modules/hello.ko", &hello)?;
    let name = format!("native-module-{}", line.name());
    let file = workspace::target().join(format!("guests/{name}.cpio"));
    let initrd = initrd.script("insmod /modules/hello.ko && rmmod hello").write(&file)?;
    let boot = Boot::Native { vmlinuz: kernel.vmlinuz, initrd, cmdline: CMDLINE.to_string() };
    let mut guest = Machine::new(&name).start(&boot)?;
    guest.wait_for("hello: loaded", Duration::from_secs(120))?;
    guest.wait_for("hello: unloaded", Duration::from_secs(30))?;
    let end = guest.wait_end(Duration::from_secs(60))?;
    ensure!(end == End::PoweredOff, "ended by {end:?}; {}", guest.where_to_look());
    guest.finish()
}
