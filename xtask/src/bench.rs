//! `cargo xtask bench`: what SecVisor costs, in instructions and exits
//!
//! Time under QEMU says nothing about hardware, but counts do: with `-icount shift=0` the time-stamp counter is the
//! number of instructions executed, those of guest and hypervisor together, and SecVisor counts the exits.

pub mod approval;
mod firmware;
mod host;
mod measured;
mod result;
mod scaling;
mod system;

use crate::debian::Release;
use crate::initrd::Initrd;
use crate::kernel::Kernel;
use crate::machine::{Boot, Machine};
use crate::progress::during;
use crate::{program, run, toolchain, workspace};
use anyhow::{Result, ensure};
use measured::Measured;
use result::Outcome;
use std::path::PathBuf;

/// What to measure.
#[derive(clap::Args)]
pub struct Options {
    /// The kernel image; or one of Debian's, fetched when needed: 6.1, 6.12 or 7.x, with -cloud, -generic or -rt
    #[arg(long, value_name = "VMLINUZ", default_value = "6.1")]
    kernel: PathBuf,
    /// The directory with the kernel's modules
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    /// Only this operation, beneath an approval of the kernel without its modules
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// What the host does instead: approve a kernel, verify a page
    #[arg(long, conflicts_with = "only")]
    host: bool,
    /// What two CPUs do of what one does instead, in time
    #[arg(long, conflicts_with_all = ["only", "host"])]
    scaling: bool,
    /// The boot of a whole Debian instead
    #[arg(long, value_name = "RELEASE", conflicts_with_all = ["kernel", "modules", "only", "host", "scaling"])]
    debian: Option<Release>,
    /// End with one JSON object on a line of its own
    #[arg(long)]
    json: bool,
}

/// Measures and shows; tells whether every target is met.
pub fn bench(options: &Options) -> Result<bool> {
    if let Some(release) = options.debian {
        return system::bench(release, options.json);
    }
    let kernel = Kernel::named(&options.kernel, options.modules.as_deref())?;
    if options.host {
        return host::bench(&kernel, options.json);
    }
    if options.scaling {
        return scaling::bench(options, &kernel);
    }
    let outcome = options.measure(&kernel)?;
    print!("{}", outcome.text());
    if options.json {
        println!("{}", outcome.json());
    }
    Ok(outcome.ok())
}

impl Options {
    /// The workload without SecVisor and beneath it, with these words on its command line; the approval.
    fn boots(&self, kernel: &Kernel, append: &str) -> Result<((Boot, Boot), approval::Made)> {
        let program = during("building the workload", || Ok(program::build()?.status.with_file_name("bench")))?;
        let mut initrd = Initrd::new()?;
        initrd.add_file("init", &program)?;
        let initrd = initrd.write(&workspace::target().join("guests/bench.cpio"))?;
        let image = during("building SecVisor", || toolchain::build_hypervisor(&[]))?;
        let approving = format!("approving {}", kernel.release);
        let all = self.only.is_none() && !self.scaling;
        let approval = during(&approving, || approval::make(kernel, all, "approval"))?;

        let cmdline = format!("{} {} quiet{append}", run::CMDLINE, run::FIXED);
        let native = Boot::Native { vmlinuz: kernel.vmlinuz.clone(), initrd: initrd.clone(), cmdline: cmdline.clone() };
        let modules = vec![(approval.file.clone(), String::new()), (initrd, String::new())];
        let beneath = Boot::Multiboot { image, cmdline: format!("{cmdline} BENCH_BENEATH=1"), modules };
        Ok(((native, beneath), approval))
    }

    fn measure(&self, kernel: &Kernel) -> Result<Outcome> {
        let only = self.only.iter().map(|name| format!(" BENCH_ONLY={name}")).collect::<String>();
        let ((native, beneath), approval) = self.boots(kernel, &only)?;
        let native = during("measuring without SecVisor", || Measured::run(&counting("bench-native"), &native))?;
        let secvisor = during("measuring beneath SecVisor", || Measured::run(&counting("bench-secvisor"), &beneath))?;
        if let Some(name) = &self.only {
            ensure!(secvisor.operation(name).is_some(), "the workload has no operation {name}");
        }
        let firmware = firmware::instructions()?;
        Ok(Outcome { release: kernel.release.clone(), native, secvisor, firmware, approval })
    }
}

/// A machine whose time-stamp counter counts instructions.
fn counting(name: &str) -> Machine {
    let mut machine = Machine::new(name);
    machine.qemu.count_instructions = true;
    machine
}
