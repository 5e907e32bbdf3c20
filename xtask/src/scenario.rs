//! Boots, each a story with a verdict.

mod agreement;
mod bad_input;
mod cpus;
mod debian;
mod devices;
mod kaslr;
mod loading;
mod memory;
mod nmi;
mod patching;
mod stage;
mod storm;
mod sweep;
mod tracer;
mod usermode;

use crate::attack;
use crate::debian::Release;
use crate::emulator::Emulator;
use crate::guest::End;
use crate::initrd::Initrd;
use crate::kernel::{Kernel, Line};
use crate::machine::{Boot, Machine};
use crate::module::build_module;
use crate::run::{self, CMDLINE, Loader};
use crate::workspace;
use anyhow::{Result, ensure};
use stage::{Stage, Stages};
use std::rc::Rc;
use std::time::Duration;
pub use sweep::Swept;

/// One story.
pub struct Scenario {
    /// What it shows.
    pub name: String,
    /// Whether it takes so long that it is told only when it is named.
    pub long: bool,
    /// Tells it; an error is its failure.
    pub run: Box<dyn Fn() -> Result<()>>,
}

/// Every story there is.
pub fn all() -> Vec<Scenario> {
    let mut every = Collection::default();
    every.on_each("native-module", native_module);
    every.on_each("agreement", agreement::with_memory);
    every.on_each("demonstration", |line| run::demonstration(line, Emulator::Qemu, Loader::Direct, 1));
    every.on_each("demonstration-4-cpus", |line| run::demonstration(line, Emulator::Qemu, Loader::Direct, 4));
    every.on("demonstration-bios", Line::Cloud61, |line| run::demonstration(line, Emulator::Qemu, Loader::Bios, 1));
    every.on("demonstration-uefi", Line::Cloud612, |line| run::demonstration(line, Emulator::Qemu, Loader::Uefi, 1));
    every.staged("usermode", usermode::same_lines);
    every.staged("devices", devices::disks_and_network);
    every.staged("patching", patching::switches);
    every.staged("tracer", |stage| tracer::traces(stage, 1));
    every.staged("tracer-4-cpus", |stage| tracer::traces(stage, 4));
    every.staged("cpus-come-and-go", cpus::come_and_go);
    every.staged("cpus-x2apic", cpus::x2apic);
    every.staged("cpus-reboot", cpus::reboots);
    every.staged_on("cpus-switch", Line::Cloud61, cpus::switch);
    every.staged("cpus-storm", |stage| cpus::storm(stage, 30));
    every.staged("nmi", nmi::reaches_linux);
    every.staged("some-modules", sweep::some);
    every.staged_on("some-modules", Line::Cloud7, sweep::some);
    every.staged_on("called-first", Line::Cloud7, sweep::called_first);
    every.on_each("kaslr-demonstrations", kaslr::demonstrations);
    every.staged("kaslr-places", kaslr::places);
    every.staged_on("kaslr-exceptions", Line::Cloud61, kaslr::exceptions);
    every.staged("footprint", memory::footprint);
    every.staged("hypervisor-memory", memory::absent);
    every.staged("storm-of-calls", storm::calls);
    every.staged("storm-of-tampering", storm::tampering);
    every.staged_on("wild-hypercalls", Line::Cloud612, storm::hypercalls);
    for case in &bad_input::CASES {
        every.staged_on(&format!("refuses-{}", case.name), Line::Cloud61, |stage| bad_input::refused(stage, case));
    }

    every.on_each("attacks", attack::test);

    every.long = true;
    every.staged("cpus-storm-5-minutes", |stage| cpus::storm(stage, 300));
    every.on("demonstration-bios", Line::Cloud612, |line| run::demonstration(line, Emulator::Qemu, Loader::Bios, 1));
    every.on("demonstration-uefi", Line::Cloud61, |line| run::demonstration(line, Emulator::Qemu, Loader::Uefi, 1));
    every.staged("all-modules", sweep::all);
    for release in Release::ALL {
        every.add(format!("debian-{}", release.linux()), move || debian::lives(release, 1));
        every.add(format!("debian-2-cpus-{}", release.linux()), move || debian::lives(release, 2));
    }
    every.on_each("bochs-demonstration", |line| run::demonstration(line, Emulator::Bochs, Loader::Direct, 1));
    every.on_each("bochs-attacks", attack::test_on_bochs);
    every.scenarios
}

/// Modules of every kind load and unload on this kernel, on a machine with so many CPUs.
pub fn sweep(kernel: &Kernel, cpus: u32, modules: usize) -> Result<Swept> {
    sweep::figures(&Stage::set(kernel.clone())?, cpus, modules)
}

/// Stories being collected.
#[derive(Default)]
struct Collection {
    scenarios: Vec<Scenario>,
    stages: Rc<Stages>,
    /// Whether the next ones are.
    long: bool,
}

impl Collection {
    fn add(&mut self, name: String, run: impl Fn() -> Result<()> + 'static) {
        self.scenarios.push(Scenario { name, long: self.long, run: Box::new(run) });
    }

    fn on(&mut self, name: &str, line: Line, run: impl Fn(Line) -> Result<()> + 'static) {
        self.add(format!("{name}-{}", line.name()), move || run(line));
    }

    fn on_each(&mut self, name: &str, run: impl Fn(Line) -> Result<()> + Copy + 'static) {
        Line::USUAL.into_iter().for_each(|line| self.on(name, line, run));
    }

    /// On the stage of this kernel, which is set when the first story needs it.
    fn staged_on(&mut self, name: &str, line: Line, run: impl Fn(&Stage) -> Result<()> + 'static) {
        let stages = self.stages.clone();
        self.on(name, line, move |line| run(&*stages.get(line)?));
    }

    fn staged(&mut self, name: &str, run: impl Fn(&Stage) -> Result<()> + Copy + 'static) {
        Line::USUAL.into_iter().for_each(|line| self.staged_on(name, line, run));
    }
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
    guest.wait_for("hello: unloaded", Duration::from_secs(120))?;
    let end = guest.wait_end(Duration::from_secs(120))?;
    ensure!(end == End::PoweredOff, "ended by {end:?}; {}", guest.where_to_look());
    guest.finish()
}
