//! What emulates machines: one interface, two emulators.

use crate::guest::End;
use crate::machine::{Boot, Machine};
use crate::{bochs, qemu};
use anyhow::{Result, bail};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The file SecVisor's report goes to.
pub const REPORT: &str = "report.log";

/// Which emulator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Emulator {
    /// Fast, with every device.
    #[default]
    Qemu,
    /// Slow, with address space identifiers and other details of AMD's processors that QEMU lacks.
    Bochs,
}

impl Emulator {
    /// Starts a machine, whose report goes to [`REPORT`] in `logs`.
    pub fn start(self, machine: &Machine, boot: &Boot, logs: &Path) -> Result<Running> {
        match self {
            Emulator::Qemu => qemu::start(machine, boot, logs),
            Emulator::Bochs => bochs::start(machine, boot, logs),
        }
    }
}

/// A machine that has been started.
pub struct Running {
    /// The emulator.
    pub process: Process,
    /// What the guest's console says.
    pub console: Box<dyn Read + Send>,
    /// What is typed into it.
    pub input: Box<dyn Write>,
    /// The machine from outside.
    pub control: Box<dyn Control>,
}

/// A machine from outside: what an emulator tells of it, and what can be done to it.
pub trait Control {
    /// How the machine ended, when the emulator has ended with this status; none if somebody has killed it.
    fn end(&mut self, status: ExitStatus) -> Option<End>;
    /// Whether it sleeps.
    fn asleep(&mut self) -> bool;
    /// Lets an NMI reach it.
    fn inject_nmi(&mut self) -> Result<()> {
        bail!("this emulator cannot inject an NMI")
    }
    /// Stops its CPUs.
    fn pause(&mut self) -> Result<()> {
        bail!("this emulator cannot stop a machine")
    }
    /// Writes so many bytes of its physical memory to a file.
    fn save_memory(&mut self, _address: u64, _size: u64, _file: &Path) -> Result<()> {
        bail!("this emulator does not save memory")
    }
}

/// An emulator's process.
#[derive(Clone)]
pub struct Process(Arc<Mutex<Child>>);

impl Process {
    /// One that was just started.
    pub fn new(child: Child) -> Process {
        Process(Arc::new(Mutex::new(child)))
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Result<Option<ExitStatus>> {
        Ok(self.child().try_wait()?)
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        matches!(self.ended(), Ok(None))
    }

    /// Ends it.
    pub fn kill(&self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Waits until the emulator has connected to a socket of ours, of which `accept` takes a connection without waiting.
pub fn connected<S>(process: &Process, accept: impl Fn() -> io::Result<S>) -> io::Result<S> {
    loop {
        match accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock && process.runs() => {
                thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}
