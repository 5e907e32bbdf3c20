//! Machines in QEMU.

use crate::emulator::{Control, Process, REPORT, Running};
use crate::guest::End;
use crate::machine::{Boot, Machine};
use crate::qmp::{Listener, Monitor};
use crate::tools::Qemu;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// What other emulators do not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The CPU model and its flags.
    pub cpu: String,
    /// Count time in instructions, so that the TSC is the number executed.
    pub count_instructions: bool,
    /// Let the guest reboot instead of ending the machine.
    pub reboots: bool,
    /// Have an IOMMU that remaps interrupts, with which Linux puts the APICs into x2APIC mode.
    pub x2apic: bool,
    /// Let port 0xf4 end the machine with a status of `value * 2 + 1`.
    pub debug_exit: bool,
    /// Anything else for the command line.
    pub extra: Vec<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cpu: "max,la57=off".to_string(),
            count_instructions: false,
            reboots: false,
            x2apic: false,
            debug_exit: false,
            extra: Vec::new(),
        }
    }
}

/// What QEMU says of itself.
const LOG: &str = "qemu.log";

/// Starts a machine.
pub fn start(machine: &Machine, boot: &Boot, logs: &Path) -> Result<Running> {
    let listener = Listener::open()?;
    let mut command = command(machine, boot, logs)?;
    command.args(["-qmp", &listener.option()]);
    fs::write(logs.join("command"), format!("{command:?}\n"))?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(logs.join(LOG))?);
    let mut child = command.spawn().context("cannot start QEMU")?;
    let console = Box::new(child.stdout.take().context("no console")?);
    let input = Box::new(child.stdin.take().context("no console input")?);
    let process = Process::new(child);
    let said = || fs::read_to_string(logs.join(LOG)).unwrap_or_default();
    let monitor = listener.accept(&process).with_context(said)?;
    Ok(Running { process, console, input, control: Box::new(monitor) })
}

/// Starts a machine with its console on our terminal, until it ends.
pub fn interact(machine: &Machine, boot: &Boot, logs: &Path) -> Result<()> {
    let status = command(machine, boot, logs)?.status().context("cannot start QEMU")?;
    ensure!(status.success(), "QEMU ended by {status}");
    Ok(())
}

fn command(machine: &Machine, boot: &Boot, logs: &Path) -> Result<Command> {
    let Options { cpu, count_instructions, reboots, x2apic, debug_exit, extra } = &machine.qemu;
    let qemu = Qemu::obtain()?;
    let mut command = qemu.command();
    // QEMU's x2APIC aborts when instructions are counted.
    let cpu = if *count_instructions { format!("{cpu},-x2apic") } else { cpu.clone() };
    command
        .args(["-machine", "q35", "-accel", "tcg", "-nodefaults", "-display", "none"])
        .args(["-cpu", &cpu, "-smp", &machine.cpus.to_string(), "-m", &machine.memory_mib.to_string()])
        .args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"])
        .arg("-serial")
        .arg(format!("file:{}", logs.join(REPORT).display()));
    if *x2apic {
        command.args(["-device", "intel-iommu,intremap=on,eim=on"]);
    }
    if machine.pci_devices {
        command.args(["-device", "secondary-vga,vgamem_mb=2", "-device", "e1000"]);
    }
    if *count_instructions {
        command.args(["-icount", "shift=0,sleep=off"]);
    }
    if !*reboots {
        command.arg("-no-reboot");
    }
    if *debug_exit {
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
    }
    command.args(extra);
    boot.configure(&mut command, &qemu, logs)?;
    Ok(command)
}

impl Control for Monitor {
    fn end(&mut self, status: ExitStatus) -> Option<End> {
        match (status.code()?, self.shutdown_reason().as_deref()) {
            (0, Some("guest-shutdown")) => Some(End::PoweredOff),
            (0, Some("guest-reset")) => Some(End::Reset),
            (code, _) => Some(End::Status(code)),
        }
    }

    fn asleep(&mut self) -> bool {
        self.told_of("SUSPEND")
    }

    fn inject_nmi(&mut self) -> Result<()> {
        self.execute("inject-nmi")
    }

    fn pause(&mut self) -> Result<()> {
        self.execute("stop")
    }

    fn save_memory(&mut self, address: u64, size: u64, file: &Path) -> Result<()> {
        Monitor::save_memory(self, address, size, file)
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
            Boot::Disk => {}
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
