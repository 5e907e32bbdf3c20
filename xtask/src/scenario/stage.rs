//! What a story is told on: a kernel that is approved with all its modules and ours, and SecVisor.

use crate::approve::approve;
use crate::guest::{End, Guest};
use crate::initrd::Initrd;
use crate::kernel::{Kernel, Line};
use crate::machine::{Boot, Machine};
use crate::module::build_module;
use crate::play::violations;
use crate::run::CMDLINE;
use crate::{toolchain, workspace};
use anyhow::{Context, Result, ensure};
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// The modules of ours that every approval here holds.
const OURS: [&str; 2] = ["vulnerable", "witness"];

/// Keeps the kernel's own lines off the console, so that they tear no line of ours apart.
pub const QUIET: &str = "dmesg -n 1\n";

/// With SecVisor or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Linux alone.
    Native,
    /// Linux beneath SecVisor.
    Beneath,
}

impl Setting {
    /// Both, in the order in which they are compared.
    pub const BOTH: [Setting; 2] = [Setting::Native, Setting::Beneath];

    fn name(self) -> &'static str {
        match self {
            Setting::Native => "native",
            Setting::Beneath => "beneath",
        }
    }
}

/// One kernel, ready to boot without SecVisor and beneath it.
pub struct Stage {
    /// The kernel.
    pub kernel: Kernel,
    /// Its approval.
    pub approval: PathBuf,
    /// SecVisor.
    pub image: PathBuf,
    /// The modules of ours, approved, too.
    ours: Vec<PathBuf>,
    scratch: PathBuf,
}

impl Stage {
    /// Approves the kernel with all its modules, and ours if they can be built for it.
    pub fn set(kernel: Kernel) -> Result<Stage> {
        let scratch =
            workspace::target().join("guests").join(format!("stage-{}-{}", kernel.release, std::process::id()));
        fs::create_dir_all(&scratch)?;
        let (approval, image) = (scratch.join("approval"), scratch.join("secvisor"));
        fs::copy(toolchain::build_hypervisor(&[])?, &image)?;
        let ours: Result<Vec<_>> = OURS
            .iter()
            .filter(|_| kernel.headers.is_ok())
            .map(|name| build_module(&kernel, &workspace::root().join("guest").join(name)))
            .collect();
        let ours = ours?;
        approve(&kernel, &[], &ours, &approval)?;
        Ok(Stage { kernel, approval, image, ours, scratch })
    }

    /// A file of this stage's own, which goes with it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// An initial RAM disk with our modules in `/modules`.
    pub fn initrd(&self) -> Result<Initrd> {
        let mut initrd = Initrd::new()?;
        for module in &self.ours {
            let name = module.file_name().context("a module without a name")?.to_string_lossy();
            initrd.add_file(&format!("modules/{name}"), module)?;
        }
        Ok(initrd)
    }

    /// How to boot it with this RAM disk, and with these words added to the command line.
    pub fn boot(&self, setting: Setting, initrd: &Path, append: &str) -> Boot {
        let cmdline = [CMDLINE, append].join(" ").trim_end().to_string();
        let initrd = initrd.to_path_buf();
        match setting {
            Setting::Native => Boot::Native { vmlinuz: self.kernel.vmlinuz.clone(), initrd, cmdline },
            Setting::Beneath => {
                let modules = vec![(self.approval.clone(), String::new()), (initrd, String::new())];
                Boot::Multiboot { image: self.image.clone(), cmdline, modules }
            }
        }
    }

    /// Starts a guest whose `/init` runs these lines.
    pub fn start(&self, setting: Setting, machine: &Machine, initrd: Initrd, lines: &str) -> Result<Guest> {
        let mut machine = machine.clone();
        machine.name = format!("{}-{}-{}", machine.name, self.kernel.release, setting.name());
        let file = initrd.script(lines).write(&self.file("initrd"))?;
        machine.start(&self.boot(setting, &file, ""))
    }

    /// The same, until the guest has switched itself off.
    pub fn run(
        &self,
        setting: Setting,
        machine: &Machine,
        initrd: Initrd,
        lines: &str,
        limit: Duration,
    ) -> Result<Guest> {
        let mut guest = self.start(setting, machine, initrd, lines)?;
        switched_off(&mut guest, limit)?;
        Ok(guest)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// The stages in use, each set once.
#[derive(Default)]
pub struct Stages(RefCell<Vec<(Line, Rc<Stage>)>>);

impl Stages {
    /// The stage for this kernel.
    pub fn get(&self, line: Line) -> Result<Rc<Stage>> {
        if let Some((_, stage)) = self.0.borrow().iter().find(|(known, _)| *known == line) {
            return Ok(stage.clone());
        }
        let stage = Rc::new(Stage::set(Kernel::obtain(line)?)?);
        self.0.borrow_mut().push((line, stage.clone()));
        Ok(stage)
    }
}

/// Waits until the guest has switched itself off; nothing else will do.
pub fn switched_off(guest: &mut Guest, limit: Duration) -> Result<()> {
    let end = guest.wait_end(limit)?;
    let died = guest.console().iter().find(|line| line.contains("Kernel panic") || line.contains("secvisor: "));
    ensure!(end == End::PoweredOff, "the guest ended by {end:?} ({died:?}); {}", guest.where_to_look());
    Ok(())
}

/// What the guest said after this word and a colon.
pub fn said<'a>(guest: &'a Guest, word: &str) -> Vec<&'a str> {
    let start = format!("{word}: ");
    guest.console().iter().filter_map(|line| line.strip_prefix(&start)).collect()
}

/// Fails if SecVisor reported a violation.
pub fn no_violations(guest: &Guest) -> Result<()> {
    let all = violations(guest)?;
    let first = all.first().map_or("", String::as_str);
    ensure!(all.is_empty(), "{} violations, the first is \"{first}\"; {}", all.len(), guest.where_to_look());
    Ok(())
}
