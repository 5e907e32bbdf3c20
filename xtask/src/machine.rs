//! A machine and how it boots, whatever emulates it.
//!
//! COM1 is the guest's console, COM2 is where SecVisor reports. Both are kept in a directory of their own,
//! which goes only when the test says that it is satisfied.

use crate::emulator::Emulator;
use crate::guest::Guest;
use crate::{qemu, workspace};
use anyhow::{Result, ensure};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// How the machine gets its first instructions.
#[derive(Clone, Debug)]
pub enum Boot {
    /// Linux alone.
    Native {
        /// The kernel image.
        vmlinuz: PathBuf,
        /// The initial RAM disk.
        initrd: PathBuf,
        /// Linux's command line.
        cmdline: String,
    },
    /// A multiboot image with modules, each a file and the arguments that follow its name.
    Multiboot {
        /// The image, an ELF32.
        image: PathBuf,
        /// Its command line; QEMU's loader puts the image's path before it.
        cmdline: String,
        /// Its modules, in order.
        modules: Vec<(PathBuf, String)>,
    },
    /// A bootable disc.
    Disc {
        /// The ISO image.
        iso: PathBuf,
        /// Whether the firmware is UEFI's instead of a BIOS.
        uefi: bool,
    },
    /// The first of the machine's own disks.
    Disk,
}

/// The machine to start.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What its logs are called.
    pub name: String,
    /// What emulates it.
    pub emulator: Emulator,
    /// How much memory it has.
    pub memory_mib: u32,
    /// How many CPUs.
    pub cpus: u32,
    /// A graphics adapter and a network card on the PCI bus, with memory of their own.
    pub pci_devices: bool,
    /// What only QEMU has.
    pub qemu: qemu::Options,
}

impl Machine {
    /// A machine of QEMU's with one CPU and a gigabyte.
    pub fn new(name: &str) -> Machine {
        Machine {
            name: name.to_string(),
            emulator: Emulator::Qemu,
            memory_mib: 1024,
            cpus: 1,
            pci_devices: false,
            qemu: qemu::Options::default(),
        }
    }

    /// Starts it.
    pub fn start(&self, boot: &Boot) -> Result<Guest> {
        let logs = new_log_directory(&self.name)?;
        Guest::new(self.emulator.start(self, boot, &logs)?, logs)
    }

    /// Starts it with its console on our terminal, until it ends; its report is kept.
    pub fn interact(&self, boot: &Boot) -> Result<PathBuf> {
        ensure!(self.emulator == Emulator::Qemu, "only QEMU gives a console one can type into");
        let logs = new_log_directory(&self.name)?;
        qemu::interact(self, boot, &logs)?;
        Ok(logs)
    }
}

fn new_log_directory(name: &str) -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let logs = workspace::target().join("guests").join(format!("{name}-{}-{number}", std::process::id()));
    fs::create_dir_all(&logs)?;
    Ok(logs)
}
