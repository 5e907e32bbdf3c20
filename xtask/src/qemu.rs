//! A guest in QEMU: a machine, a way to boot it, and its serial lines.
//!
//! COM1 is the guest's console, COM2 is where SecVisor reports. Both are kept in a directory of their own,
//! which goes only when the test says that it is satisfied.

use crate::guest::Guest;
use crate::qmp::Listener;
use crate::tools::Qemu;
use crate::workspace;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// How the machine gets its first instructions.
#[derive(Clone, Debug)]
pub enum Boot {
    /// Linux alone, by QEMU's own loader.
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
        /// Its command line; QEMU puts the image's path before it.
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
}

/// The machine to start.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What its logs are called.
    pub name: String,
    /// How much memory it has.
    pub memory_mib: u32,
    /// How many CPUs.
    pub cpus: u32,
    /// The CPU model and its flags.
    pub cpu: String,
    /// Count time in instructions, so that the TSC is the number executed.
    pub count_instructions: bool,
    /// Let port 0xf4 end the machine with a status of `value * 2 + 1`.
    pub debug_exit: bool,
    /// Anything else for QEMU's command line.
    pub extra: Vec<String>,
}

impl Machine {
    /// A machine with one CPU and a gigabyte.
    pub fn new(name: &str) -> Machine {
        Machine {
            name: name.to_string(),
            memory_mib: 1024,
            cpus: 1,
            cpu: "max,la57=off".to_string(),
            count_instructions: false,
            debug_exit: false,
            extra: Vec::new(),
        }
    }

    /// Starts it.
    pub fn start(&self, boot: &Boot) -> Result<Guest> {
        let logs = new_log_directory(&self.name)?;
        let qemu = Qemu::obtain()?;
        let listener = Listener::open()?;
        let mut command = qemu.command();
        self.configure(&mut command, &logs);
        command.args(["-qmp", &listener.option()]);
        boot.configure(&mut command, &qemu, &logs)?;
        fs::write(logs.join("command"), format!("{command:?}\n"))?;
        Guest::spawn(command, listener, logs)
    }

    /// Starts it with its console on our terminal, until it ends; its report is kept.
    pub fn interact(&self, boot: &Boot) -> Result<PathBuf> {
        let logs = new_log_directory(&self.name)?;
        let qemu = Qemu::obtain()?;
        let mut command = qemu.command();
        self.configure(&mut command, &logs);
        boot.configure(&mut command, &qemu, &logs)?;
        let status = command.status().context("cannot start QEMU")?;
        ensure!(status.success(), "QEMU ended by {status}");
        Ok(logs)
    }

    fn configure(&self, command: &mut Command, logs: &Path) {
        // QEMU's x2APIC aborts when instructions are counted.
        let cpu = if self.count_instructions { format!("{},-x2apic", self.cpu) } else { self.cpu.clone() };
        command
            .args(["-machine", "q35", "-accel", "tcg", "-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-cpu", &cpu, "-smp", &self.cpus.to_string(), "-m", &self.memory_mib.to_string()])
            .args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"])
            .arg("-serial")
            .arg(format!("file:{}", logs.join("report.log").display()));
        if self.count_instructions {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        if self.debug_exit {
            command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
        }
        command.args(&self.extra);
    }
}

impl Boot {
    fn configure(&self, command: &mut Command, qemu: &Qemu, logs: &Path) -> Result<()> {
        match self {
            Boot::Native { vmlinuz, initrd, cmdline } => {
                command.arg("-kernel").arg(vmlinuz).arg("-initrd").arg(initrd).args(["-append", cmdline]);
            }
            Boot::Multiboot { image, cmdline, modules } => {
                command.arg("-kernel").arg(image).args(["-append", cmdline]);
                if !modules.is_empty() {
                    let all: Result<Vec<_>> = modules.iter().map(|(file, text)| module_option(file, text)).collect();
                    command.args(["-initrd", &all?.join(",")]);
                }
            }
            Boot::Disc { iso, uefi } => {
                command.arg("-cdrom").arg(iso);
                if *uefi {
                    let (code, variables) = qemu.uefi()?;
                    let ours = logs.join("uefi-variables");
                    fs::copy(variables, &ours)?;
                    let flash = |file: &Path, more: &str| format!("if=pflash,format=raw,file={}{more}", file.display());
                    command.args(["-drive", &flash(&code, ",readonly=on"), "-drive", &flash(&ours, "")]);
                }
            }
        }
        Ok(())
    }
}

/// QEMU splits the list of modules at commas (a doubled one stands for itself) and a module at its first space.
fn module_option(file: &Path, text: &str) -> Result<String> {
    let file = file.to_str().context("a module's path is not text")?;
    ensure!(!file.contains(' '), "QEMU cannot load a multiboot module from a path with a space: {file}");
    Ok(format!("{file} {text}").trim_end().replace(',', ",,"))
}

fn new_log_directory(name: &str) -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let logs = workspace::target().join("guests").join(format!("{name}-{}-{number}", std::process::id()));
    fs::create_dir_all(&logs)?;
    Ok(logs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_module_arguments_are_doubled() {
        let option = module_option(Path::new("/a/approval.bin"), "console=ttyS0,115200").unwrap();
        assert_eq!(option, "/a/approval.bin console=ttyS0,,115200");
        assert_eq!(module_option(Path::new("/a/initrd"), "").unwrap(), "/a/initrd");
        assert!(module_option(Path::new("/a b/initrd"), "").is_err());
    }
}
