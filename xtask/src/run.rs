//! `cargo xtask run`: a stock kernel, without SecVisor and beneath it.

use crate::approve::approve;
use crate::debian::machine::Debian;
use crate::debian::{Release, disk::Disk};
use crate::demo::{self, Demo};
use crate::disc::{Disc, Protocol};
use crate::emulator::{Emulator, REPORT};
use crate::guest::End;
use crate::kernel::{Kernel, Line};
use crate::machine::{Boot, Machine};
use crate::play::{self, Play};
use crate::progress::during;
use crate::table::Comparison;
use crate::{toolchain, workspace};
use anyhow::{Result, bail, ensure};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// What every guest's kernel is told.
pub const CMDLINE: &str = "console=ttyS0,115200 panic=-1";

/// What it is told, too, where addresses or numbers of instructions are compared.
pub const FIXED: &str = "nokaslr";

const MEMORY_MIB: u32 = 1024;

/// A guest whose console is shown may be silent for a while.
const CONSOLE_LIMIT: Duration = Duration::from_secs(600);

/// What to run, and how.
#[derive(clap::Args)]
pub struct Options {
    /// The kernel image; or one of Debian's, fetched when needed: 6.1, 6.12 or 7.x, with -cloud, -generic or -rt
    #[arg(long, value_name = "VMLINUZ", default_value = "6.1")]
    kernel: PathBuf,
    /// The directory with the kernel's modules
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    /// An initial RAM disk to boot instead of the demonstration's
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Shell lines to run instead of the demonstration
    #[arg(long, value_name = "STR", conflicts_with = "initrd")]
    script: Option<String>,
    /// A whole Debian from its disk by GRUB, with a shell of root's, instead of the demonstration
    #[arg(
        long,
        value_name = "RELEASE",
        conflicts_with_all = ["kernel", "modules", "initrd", "script", "append", "iso", "uefi", "json"]
    )]
    debian: Option<Release>,
    /// What to add to the kernel's command line
    #[arg(long, value_name = "STR")]
    append: Option<String>,
    /// Memory
    #[arg(long, value_name = "MIB", default_value_t = MEMORY_MIB)]
    memory: u32,
    /// Number of CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: u32,
    /// What emulates the machine
    #[arg(long, value_enum, default_value_t)]
    emulator: Emulator,
    /// Run only without SecVisor
    #[arg(long)]
    native: bool,
    /// Open a shell in the guest; `demo` runs the demonstration there
    #[arg(long)]
    shell: bool,
    /// Boot through GRUB instead of QEMU's loader
    #[arg(long, conflicts_with = "native")]
    iso: bool,
    /// Boot through GRUB, on a machine with UEFI
    #[arg(long, conflicts_with = "native")]
    uefi: bool,
    /// End with one JSON object on a line of its own
    #[arg(long)]
    json: bool,
}

/// What to do with the guest.
enum Wanted {
    /// Compare the demonstration without SecVisor and beneath it.
    Demonstration,
    /// Show what the guest says until it ends.
    Console,
    /// Let the user talk to it.
    Shell,
}

/// How SecVisor is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    /// The emulator's own, if it has one.
    Direct,
    /// GRUB, started by a BIOS.
    Bios,
    /// GRUB, started by UEFI.
    Uefi,
}

/// The demonstration on one of Debian's kernels; an error if anything ended otherwise than it must.
pub fn demonstration(line: Line, emulator: Emulator, loader: Loader, cpus: u32) -> Result<()> {
    ensure!(run(&Options::usual(line, emulator, loader, cpus))?, "not everything ended as it must");
    Ok(())
}

/// The demonstration, once without SecVisor and several times beneath it: what was seen beneath it.
pub fn demonstrations(line: Line, times: usize) -> Result<Vec<Play>> {
    let options = Options::usual(line, Emulator::Qemu, Loader::Direct, 1);
    let (kernel, scratch) = (options.kernel()?, Scratch::new()?);
    let prepared = options.prepare(&kernel, &scratch)?;
    let beneath = options.beneath(&kernel, &prepared, CMDLINE, &scratch)?;
    let cmdline = CMDLINE.to_string();
    let native = Boot::Native { vmlinuz: kernel.vmlinuz.clone(), initrd: prepared.initrd, cmdline };
    let native = options.play(&kernel, "without", &native)?;
    let mut plays = Vec::new();
    for _ in 0..times {
        let secvisor = options.play(&kernel, "beneath", &beneath)?;
        let comparison = Comparison { release: &kernel.release, cpus: 1, native: &native, secvisor: Some(&secvisor) };
        ensure!(comparison.ok(), "not everything ended as it must:\n{}", comparison.text());
        plays.push(secvisor);
    }
    native.finish()?;
    Ok(plays)
}

/// Runs what is wanted; tells whether everything ended as it must.
pub fn run(options: &Options) -> Result<bool> {
    if let Some(release) = options.debian {
        return options.log_in(release);
    }
    let kernel = options.kernel()?;
    let scratch = Scratch::new()?;
    let prepared = options.prepare(&kernel, &scratch)?;
    let cmdline = [CMDLINE, options.append.as_deref().unwrap_or_default()].join(" ").trim_end().to_string();
    let beneath = if options.native { None } else { Some(options.beneath(&kernel, &prepared, &cmdline, &scratch)?) };
    let native = Boot::Native { vmlinuz: kernel.vmlinuz.clone(), initrd: prepared.initrd, cmdline };
    match options.wanted() {
        Wanted::Demonstration => options.compare(&kernel, &native, beneath.as_ref()),
        Wanted::Console => options.show(&kernel, beneath.as_ref().unwrap_or(&native)),
        Wanted::Shell => {
            eprintln!("`poweroff -f` ends the guest");
            let logs = options.machine("shell").interact(beneath.as_ref().unwrap_or(&native))?;
            eprintln!("SecVisor's report is in {}", logs.join(REPORT).display());
            Ok(true)
        }
    }
}

/// What only this run uses, so that another beside it does no harm; it goes with the run.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        let directory = workspace::target().join("guests").join(format!("run-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        Ok(Scratch(directory))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The initial RAM disk, and what must be approved for it.
struct Prepared {
    initrd: PathBuf,
    not_approved: &'static [&'static str],
    modules: Vec<PathBuf>,
}

impl Options {
    fn usual(line: Line, emulator: Emulator, loader: Loader, cpus: u32) -> Options {
        Options {
            kernel: line.name().into(),
            modules: None,
            initrd: None,
            script: None,
            debian: None,
            append: None,
            memory: MEMORY_MIB,
            cpus,
            emulator,
            native: false,
            shell: false,
            iso: loader == Loader::Bios,
            uefi: loader == Loader::Uefi,
            json: false,
        }
    }

    fn play(&self, kernel: &Kernel, name: &str, boot: &Boot) -> Result<Play> {
        eprintln!("{} {name} SecVisor", kernel.release);
        Play::run(&self.machine(name), boot)
    }

    fn wanted(&self) -> Wanted {
        match (self.shell, &self.initrd, &self.script) {
            (true, ..) => Wanted::Shell,
            (false, None, None) => Wanted::Demonstration,
            _ => Wanted::Console,
        }
    }

    fn kernel(&self) -> Result<Kernel> {
        Kernel::named(&self.kernel, self.modules.as_deref())
    }

    fn prepare(&self, kernel: &Kernel, scratch: &Scratch) -> Result<Prepared> {
        if let Some(initrd) = &self.initrd {
            ensure!(initrd.is_file(), "no {}", initrd.display());
            return Ok(Prepared { initrd: initrd.clone(), not_approved: &[], modules: Vec::new() });
        }
        let lines = match (&self.script, self.shell) {
            (Some(lines), false) => lines,
            (_, true) => "setsid cttyhack sh",
            (None, false) => "demo",
        };
        let demo = match &kernel.headers {
            Ok(_) => during("building the demonstration", || Demo::prepare(kernel))?,
            Err(why) if matches!(self.wanted(), Wanted::Demonstration) => bail!(
                "the demonstration needs modules of its own, and none can be built for {}: {why}; \
                 --shell and --script go without them",
                kernel.release
            ),
            Err(why) => {
                eprintln!("no demonstration in the guest, for want of its modules: {why}");
                Demo::left_out()?
            }
        };
        let modules = demo.modules.clone();
        let initrd = demo.write(lines, &scratch.0.join("initrd"))?;
        Ok(Prepared { initrd, not_approved: &[demo::NOT_APPROVED], modules })
    }

    /// Builds SecVisor, approves the kernel, and puts both where the machine boots from.
    fn beneath(&self, kernel: &Kernel, prepared: &Prepared, cmdline: &str, scratch: &Scratch) -> Result<Boot> {
        let by_grub = self.iso || self.uefi;
        let approval = scratch.0.join(if by_grub { "approval.gz" } else { "approval" });
        let image = scratch.0.join("secvisor");
        let approving = format!("approving {} and its modules", kernel.release);
        during(&approving, || approve(kernel, prepared.not_approved, &prepared.modules, &approval))?;
        fs::copy(during("building SecVisor", || toolchain::build_hypervisor(&[]))?, &image)?;
        let modules = vec![(approval, String::new()), (prepared.initrd.clone(), String::new())];
        let cmdline = cmdline.to_string();
        if !by_grub {
            return Ok(Boot::Multiboot { image, cmdline, modules });
        }
        let disc = Disc { protocol: Protocol::Multiboot2, image, cmdline, modules };
        let iso = during("making a disc", || disc.write(&scratch.0.join("disc.iso")))?;
        Ok(Boot::Disc { iso, uefi: self.uefi })
    }

    fn machine(&self, name: &str) -> Machine {
        let mut machine = Machine::new(name);
        machine.memory_mib = self.memory;
        machine.cpus = self.cpus;
        machine.emulator = self.emulator;
        machine
    }

    fn compare(&self, kernel: &Kernel, native: &Boot, beneath: Option<&Boot>) -> Result<bool> {
        let native = self.play(kernel, "without", native)?;
        let secvisor = beneath.map(|boot| self.play(kernel, "beneath", boot)).transpose()?;
        let comparison =
            Comparison { release: &kernel.release, cpus: self.cpus, native: &native, secvisor: secvisor.as_ref() };
        print!("{}", comparison.text());
        if self.json {
            println!("{}", comparison.json());
        }
        let ok = comparison.ok();
        if ok {
            [Some(native), secvisor].into_iter().flatten().try_for_each(Play::finish)?;
        }
        Ok(ok)
    }

    fn log_in(&self, release: Release) -> Result<bool> {
        let disk = Disk::obtain(release)?;
        let approving = format!("approving {} and its modules", disk.kernel.release);
        let debian = if self.native { Debian::native(disk)? } else { during(&approving, || Debian::beneath(disk))? };
        eprintln!("`poweroff` ends the guest; nothing it writes is kept");
        let logs = debian.interact(&self.machine("run"))?;
        eprintln!("SecVisor's report is in {}", logs.join(REPORT).display());
        Ok(true)
    }

    fn show(&self, kernel: &Kernel, boot: &Boot) -> Result<bool> {
        let mut guest = self.machine("console").start(boot)?;
        while let Ok(line) = guest.wait_for("", CONSOLE_LIMIT) {
            println!("{line}");
        }
        let end = guest.wait_end(Duration::from_secs(5))?;
        let violations = play::violations(&guest)?;
        violations.iter().for_each(|line| println!("{line}"));
        let ok = end == End::PoweredOff;
        if self.json {
            let paging = (!self.native).then_some("nested");
            let object = json!({
                "kernel": kernel.release, "paging": paging, "cpus": self.cpus, "booted": ok,
                "steps": [], "exits": {}, "violations": violations.len(), "ok": ok,
            });
            println!("{object}");
        }
        if ok {
            guest.finish()?
        } else {
            eprintln!("the guest ended by {end:?}; {}", guest.where_to_look())
        }
        Ok(ok)
    }
}
