//! The demonstration: what is put into the guest for it, and how each of its steps must end.

use crate::initrd::Initrd;
use crate::kernel::Kernel;
use crate::module::build_module;
use crate::patch::Module;
use crate::{program, workspace};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A step, and the word it must end with without SecVisor and beneath it.
pub struct Step {
    /// What the guest calls it.
    pub name: &'static str,
    /// How it must end without SecVisor.
    pub native: &'static str,
    /// How it must end beneath SecVisor; if not like that without, SecVisor must report a violation, else none.
    pub secvisor: &'static str,
}

const fn allowed(name: &'static str) -> Step {
    Step { name, native: "works", secvisor: "works" }
}

const fn forbidden(name: &'static str) -> Step {
    Step { name, native: "ran", secvisor: "refused" }
}

/// What the guest's program `demo` does, in its order.
pub const STEPS: [Step; 9] = [
    allowed("approved-module"),
    allowed("more-approved-modules"),
    forbidden("unapproved-module"),
    forbidden("changed-module"),
    forbidden("changed-relocation"),
    Step { name: "text-overwrite", native: "ran", secvisor: "restored" },
    forbidden("heap-code"),
    forbidden("user-page-code"),
    allowed("system-alive"),
];

/// The stock module that is not approved: two file systems that nothing needs.
pub const NOT_APPROVED: &str = "sysv";

/// The stock modules that are approved and used.
const USED: [&str; 4] = ["dummy", "loop", "dm_mod", "tls"];

/// `mov r8d, 1`: dummy's initialisation passes the number of transmit queues to alloc_netdev_mqs().
pub const TRANSMIT_QUEUES: [u8; 6] = [0x41, 0xb8, 1, 0, 0, 0];

/// What the demonstration needs.
pub struct Demo {
    /// The modules that are approved beside the stock ones.
    pub modules: Vec<PathBuf>,
    initrd: Initrd,
}

impl Demo {
    /// Builds all that is needed.
    pub fn prepare(kernel: &Kernel) -> Result<Demo> {
        let ours =
            ["vulnerable", "witness"].map(|name| build_module(kernel, &workspace::root().join("guest").join(name)));
        let [vulnerable, witness] = ours;
        let (vulnerable, witness) = (vulnerable?, witness?);
        let programs = program::build()?;

        let mut initrd = Initrd::new()?;
        initrd.add_file("bin/demo", &programs.demo)?;
        initrd.add_file("bin/secvisor", &programs.status)?;
        initrd.add_modules(kernel, &USED)?;
        initrd.add_file("modules/vulnerable.ko", &vulnerable)?;
        initrd.add_file("modules/witness.ko", &witness)?;

        initrd.add(&format!("demo/{NOT_APPROVED}.ko"), kernel.module(NOT_APPROVED)?, false);
        let dummy = Module::unsigned(kernel.module("dummy")?)?.with_byte(".init.text", &TRANSMIT_QUEUES, 2, 2);
        initrd.add("demo/dummy.ko", dummy.context("dummy cannot be changed")?.into_bytes(), false);
        let witness_changed = Module::unsigned(fs::read(&witness)?)?.with_relocation(".init.text", "gcd", "lcm");
        initrd.add("demo/witness.ko", witness_changed.context("witness cannot be changed")?.into_bytes(), false);
        Ok(Demo { modules: vec![vulnerable, witness], initrd })
    }

    /// What remains of it where no module can be built.
    pub fn left_out() -> Result<Demo> {
        let mut initrd = Initrd::new()?;
        initrd.add_file("bin/secvisor", &program::build()?.status)?;
        Ok(Demo { modules: Vec::new(), initrd })
    }

    /// Writes the initial RAM disk, whose `/init` runs these lines.
    pub fn write(self, lines: &str, to: &Path) -> Result<PathBuf> {
        self.initrd.script(lines).write(to)
    }
}
