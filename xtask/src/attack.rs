//! `cargo xtask attack`: every attack of `attacks/`, without SecVisor and beneath it.

mod manifest;
mod result;
mod session;
pub mod spoil;

use crate::approve::approve;
use crate::demo;
use crate::emulator::Emulator;
use crate::initrd::Initrd;
use crate::kernel::{Kernel, Line};
use crate::machine::{Boot, Machine};
use crate::module::build_module;
use crate::patch::Module;
use crate::progress::during;
use crate::run::{CMDLINE, FIXED};
use crate::{toolchain, workspace};
use anyhow::{Context, Result, ensure};
use manifest::Attack;
use result::{Results, Side};
use session::Session;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use xshell::cmd;

/// Modules of `attacks/modules` that are approved.
const APPROVED: [&str; 2] = ["target", "livepatch"];

/// Those that are not.
const ROOTKITS: [&str; 2] = ["table-hook", "ftrace-hook"];

/// That of another kernel which is loaded by force.
const OTHER: &str = "crc7";

/// The section with a module's `struct module`.
const DESCRIPTION: &str = ".gnu.linkonce.this_module";

/// The attack that needs what the kernel's init text was.
const INIT_TEXT: &str = "init-text-original";

/// The group of attacks whose machine has its APICs in x2APIC mode.
const X2APIC: &str = "x2apic";

/// Stock modules the attacks load.
const USED: [&str; 1] = ["dummy"];

/// What to attack, and how.
#[derive(clap::Args)]
pub struct Options {
    /// Only attacks whose names contain one of these
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Only without SecVisor
    #[arg(long)]
    native: bool,
    /// The kernel image; or one of Debian's, fetched when needed: 6.1 or 6.12, with -cloud, -generic or -rt
    #[arg(long, value_name = "VMLINUZ", default_value = "6.1")]
    kernel: PathBuf,
    /// What emulates the machines
    #[arg(long, value_enum, default_value_t)]
    emulator: Emulator,
    /// Number of CPUs; attacks that need two have two at least
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: u32,
    /// End with one JSON object on a line of its own
    #[arg(long)]
    json: bool,
}

/// Runs what is wanted; tells whether everything ended as it must.
pub fn attack(options: &Options) -> Result<bool> {
    let kernel = Kernel::named(&options.kernel, None)?;
    let mut attacks = manifest::read()?;
    if !options.names.is_empty() {
        let exact = |name: &String| attacks.iter().any(|attack| attack.name == *name);
        let (whole, parts): (Vec<_>, Vec<_>) = options.names.iter().partition(|name| exact(name));
        let wanted = |name: &String| whole.contains(&name) || parts.iter().any(|part| name.contains(*part));
        attacks.retain(|attack| wanted(&attack.name));
        ensure!(!attacks.is_empty(), "no attack is called so");
    }
    attacks.retain(|attack| attack.cpus.of(options.cpus).is_some());
    ensure!(!attacks.is_empty(), "none of these makes sense with so many CPUs");
    let left_out = manifest::leave_out(&mut attacks, options.emulator)?;
    ensure!(!attacks.is_empty(), "none of these can be tried there: {}", left_out[0]);
    let scratch = Scratch::new()?;
    let (emulator, cpus) = (options.emulator, options.cpus);
    let mut prepared = during("building the attacks", || Prepared::new(&kernel, emulator, cpus, &scratch))?;
    let results = prepared.run(&attacks, options.native, &scratch)?;
    print!("{}", results.text());
    left_out.iter().for_each(|one| println!("left out: {one}"));
    if options.json {
        println!("{}", results.json());
    }
    Ok(results.ok())
}

/// For `cargo xtask test`: those that share their boot with many, with one CPU and with two, without SecVisor and beneath it.
pub fn test(line: Line) -> Result<()> {
    let kernel = Kernel::obtain(line)?;
    let mut attacks = manifest::read()?;
    attacks.retain(|attack| attack.boots.shared() && attack.boots.feature.is_none());
    let scratch = Scratch::new()?;
    let results = Prepared::new(&kernel, Emulator::Qemu, 1, &scratch)?.run(&attacks, false, &scratch)?;
    print!("{}", results.text());
    ensure!(results.ok(), "not every attack ended as it must");
    Ok(())
}

/// The same on the other emulator: all that can be tried there with one CPU.
pub fn test_on_bochs(line: Line) -> Result<()> {
    let options = Options {
        names: Vec::new(),
        native: false,
        kernel: line.name().into(),
        emulator: Emulator::Bochs,
        cpus: 1,
        json: false,
    };
    ensure!(attack(&options)?, "not every attack ended as it must");
    Ok(())
}

/// What only this run uses; it goes with the run.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        let directory = workspace::target().join("guests").join(format!("attack-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        Ok(Scratch(directory))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The programs and modules, for one kernel.
struct Prepared<'a> {
    kernel: &'a Kernel,
    emulator: Emulator,
    /// How many a machine has, unless its attacks need more.
    cpus: u32,
    program: PathBuf,
    vulnerable: PathBuf,
    witness: PathBuf,
    approved: Vec<PathBuf>,
    rootkits: Vec<PathBuf>,
    /// A module of another kernel.
    other: Vec<u8>,
    /// The kernel's init text as it was, behind its address; empty if nobody needs it.
    init_text: Vec<u8>,
}

impl Prepared<'_> {
    fn new<'a>(kernel: &'a Kernel, emulator: Emulator, cpus: u32, scratch: &Scratch) -> Result<Prepared<'a>> {
        let ours = |directory: &str, name: &str| build_module(kernel, &workspace::root().join(directory).join(name));
        Ok(Prepared {
            kernel,
            emulator,
            cpus,
            program: build_program(scratch)?,
            vulnerable: ours("guest", "vulnerable")?,
            witness: ours("guest", "witness")?,
            approved: APPROVED.iter().map(|name| ours("attacks/modules", name)).collect::<Result<_>>()?,
            rootkits: ROOTKITS.iter().map(|name| ours("attacks/modules", name)).collect::<Result<_>>()?,
            other: other_module(kernel)?,
            init_text: Vec::new(),
        })
    }

    /// A machine for some of them.
    fn machine(&self, label: &str, group: &str, cpus: u32) -> Machine {
        let mut machine = Machine::new(&format!("attack-{label}"));
        machine.emulator = self.emulator;
        machine.cpus = cpus;
        machine.pci_devices = true;
        machine.qemu.x2apic = group == X2APIC;
        machine
    }

    /// The initial RAM disk that runs these attacks.
    fn initrd(&self, names: &[String], to: PathBuf) -> Result<PathBuf> {
        let mut initrd = Initrd::new()?;
        initrd.add_file("bin/attack", &self.program)?;
        initrd.add_file("modules/vulnerable.ko", &self.vulnerable)?;
        initrd.add_modules(self.kernel, &USED)?;
        for module in self.approved.iter().chain(&self.rootkits) {
            let name = module.file_name().context("no name")?.to_string_lossy().into_owned();
            initrd.add_file(&format!("modules/{name}"), module)?;
        }
        initrd.add(&format!("attack/{}.ko", demo::NOT_APPROVED), self.kernel.module(demo::NOT_APPROVED)?, false);
        let dummy = Module::unsigned(self.kernel.module("dummy")?)?
            .with_byte(".init.text", &demo::TRANSMIT_QUEUES, 2, 2)
            .context("dummy cannot be changed")?;
        initrd.add("attack/dummy.ko", dummy.into_bytes(), false);
        let witness = Module::unsigned(fs::read(&self.witness)?)?.with_relocation(".init.text", "gcd", "lcm");
        initrd.add("attack/other.ko", self.other.clone(), false);
        initrd.add("attack/init-text", self.init_text.clone(), false);
        initrd.add("attack/witness.ko", witness.context("witness cannot be changed")?.into_bytes(), false);
        initrd.script(&format!("attack {}", names.join(" "))).write(&to)
    }

    fn run(&mut self, attacks: &[Attack], only_native: bool, scratch: &Scratch) -> Result<Results> {
        let approval = scratch.0.join("approval");
        let init_text = attacks.iter().any(|attack| attack.name == INIT_TEXT);
        if !only_native || init_text {
            let approving = format!("approving {} and its modules", self.kernel.release);
            let ours: Vec<_> = self.approved.iter().chain([&self.vulnerable, &self.witness]).cloned().collect();
            during(&approving, || approve(self.kernel, &[demo::NOT_APPROVED], &ours, &approval))?;
        }
        let vmlinuz = self.kernel.vmlinuz.clone();
        let native = |initrd: PathBuf, _: &[String]| {
            Ok(Boot::Native { vmlinuz: vmlinuz.clone(), initrd, cmdline: command_line() })
        };
        let beneath = |features: &[&str]| {
            let image = scratch.0.join(["secvisor", &features.concat()].concat());
            fs::copy(toolchain::build_hypervisor(features)?, &image)?;
            let approval = approval.clone();
            Ok::<_, anyhow::Error>(move |initrd: PathBuf, names: &[String]| {
                let mut approval = approval.clone();
                if let [name] = names
                    && let Some(spoiled) = spoil::spoil(name, &fs::read(&approval)?)?
                {
                    approval.set_extension("spoiled");
                    fs::write(&approval, spoiled)?;
                }
                let modules = vec![(approval, String::new()), (initrd, String::new())];
                Ok(Boot::Multiboot { image: image.clone(), cmdline: command_line(), modules })
            })
        };
        let plain = match only_native && !init_text {
            true => None,
            false => Some(during("building SecVisor", || beneath(&[]))?),
        };
        if let Some(plain) = plain.as_ref().filter(|_| init_text) {
            self.init_text = during("reading init text", || self.read_init_text(&approval, plain, scratch))?;
        }
        let mut results = Results::new(&self.kernel.release, self.emulator, self.cpus, attacks, only_native);
        let (with_twin, without_twin) = attacks.iter().partition::<Vec<_>, _>(|attack| attack.boots.feature.is_none());
        results.note(Side::Native, self.sessions("without", &with_twin, &native, scratch)?);
        let Some(plain) = plain.filter(|_| !only_native) else {
            return Ok(results);
        };
        let all: Vec<_> = attacks.iter().collect();
        results.note(Side::SecVisor, self.sessions("beneath", &all, &plain, scratch)?);
        let mut by_feature: BTreeMap<&str, Vec<&Attack>> = BTreeMap::new();
        for attack in without_twin {
            by_feature.entry(attack.boots.feature.as_deref().unwrap_or_default()).or_default().push(attack);
        }
        for (feature, attacks) in by_feature {
            let weakened = during(&format!("building SecVisor {feature}"), || beneath(&[feature]))?;
            results.note(Side::Native, self.sessions(feature, &attacks, &weakened, scratch)?);
        }
        Ok(results)
    }

    /// The kernel's init text, patched, before it is freed; behind its address.
    fn read_init_text(
        &self,
        approval: &Path,
        boot: &dyn Fn(PathBuf, &[String]) -> Result<Boot>,
        scratch: &Scratch,
    ) -> Result<Vec<u8>> {
        let (physical, address, length) = spoil::init_text(&mut fs::read(approval)?)?;
        let initrd = self.initrd(&[], scratch.0.join("initrd"))?;
        let mut guest = self.machine("init-text", "", self.cpus).start(&boot(initrd, &[])?)?;
        // Some time before it is freed; what Linux patches in it, it has patched.
        guest.wait_for("to unpack rootfs image", Duration::from_secs(120))?;
        guest.control().pause()?;
        let file = scratch.0.join("init-text");
        guest.control().save_memory(physical, length, &file)?;
        let bytes = [address.to_le_bytes().to_vec(), fs::read(file)?].concat();
        guest.finish()?;
        Ok(bytes)
    }

    /// Boots as often as needed for all these attacks.
    fn sessions(
        &self,
        label: &str,
        attacks: &[&Attack],
        boot: &dyn Fn(PathBuf, &[String]) -> Result<Boot>,
        scratch: &Scratch,
    ) -> Result<Vec<session::Ended>> {
        let mut waiting: BTreeMap<(&str, u32), Vec<String>> = BTreeMap::new();
        for attack in attacks {
            let cpus = attack.cpus.of(self.cpus).unwrap_or(self.cpus);
            waiting.entry((&attack.boots.group, cpus)).or_default().push(attack.name.clone());
        }
        let mut ended = Vec::new();
        for ((group, cpus), mut names) in waiting {
            while !names.is_empty() {
                eprintln!("{} {label}, {cpus} CPUs: {} attacks", self.kernel.release, names.len());
                let initrd = self.initrd(&names, scratch.0.join("initrd"))?;
                let session = Session::run(&self.machine(label, group, cpus), &boot(initrd, &names)?, &names)?;
                // Whoever ended the machine took the rest with it: they get another one.
                names.retain(|name| !session.iter().any(|one| one.name == *name));
                ensure!(!session.is_empty(), "the guest did not come up");
                ended.extend(session);
            }
        }
        Ok(ended)
    }
}

/// Both guests' command line: that of the other tests, and memory for a crash kernel.
fn command_line() -> String {
    format!("{CMDLINE} {FIXED} crashkernel=32M")
}

/// A stock module of another kernel line, as long as this kernel wants the part that describes it.
fn other_module(kernel: &Kernel) -> Result<Vec<u8>> {
    let kernels = Line::USUAL.map(Kernel::obtain).into_iter().collect::<Result<Vec<_>>>()?;
    let other = kernels.iter().find(|other| other.release != kernel.release).context("no other kernel")?;
    let own = Module::unsigned(kernel.module(OTHER)?)?.section_size(DESCRIPTION)?;
    Module::unsigned(other.module(OTHER)?)?.with_section_size(DESCRIPTION, own).map(Module::into_bytes)
}

/// One program with every attack in it, which needs no library in the guest.
fn build_program(scratch: &Scratch) -> Result<PathBuf> {
    let directory = workspace::root().join("attacks");
    let mut sources = Vec::new();
    for place in [directory.clone(), directory.join("common")] {
        for entry in fs::read_dir(place)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "c") {
                sources.push(path);
            }
        }
    }
    sources.sort();
    let shell = workspace::shell()?;
    let program = scratch.0.join("attack");
    let flags = ["-O1", "-Wall", "-Wextra", "-D_GNU_SOURCE", "-mfsgsbase", "-static", "-s"];
    cmd!(shell, "gcc {flags...} -I {directory} -o {program} {sources...}")
        .quiet()
        .run()
        .context("the attacks do not build (a static C library is needed: libc6-dev)")?;
    Ok(program)
}
