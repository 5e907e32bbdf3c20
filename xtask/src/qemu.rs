//! A guest in QEMU: a machine, a way to boot it, and its serial lines.
//!
//! COM1 is the guest's console, COM2 is where SecVisor reports. Both are kept in a directory of their own,
//! which goes only when the test says that it is satisfied.

use crate::qmp::{Listener, Monitor};
use crate::tools::Qemu;
use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

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
        self.configure(&mut command, &logs, &listener);
        boot.configure(&mut command, &qemu, &logs)?;
        fs::write(logs.join("command"), format!("{command:?}\n"))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(logs.join("qemu.log"))?);
        let mut child = command.spawn().context("cannot start QEMU")?;
        let console = read_lines(child.stdout.take().context("no console")?, File::create(logs.join("console.log"))?);
        let input = child.stdin.take().context("no console input")?;
        let monitor = listener.accept(|| matches!(child.try_wait(), Ok(None)));
        let monitor = monitor.with_context(|| format!("see {}", logs.join("qemu.log").display()))?;
        Ok(Guest { child, input, console, seen: Vec::new(), monitor, logs })
    }

    fn configure(&self, command: &mut Command, logs: &Path, listener: &Listener) {
        // Bochs' and real IOMMU-less machines have no x2APIC either, and QEMU's aborts when counting instructions.
        let cpu = if self.count_instructions { format!("{},-x2apic", self.cpu) } else { self.cpu.clone() };
        command
            .args(["-machine", "q35", "-accel", "tcg", "-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-cpu", &cpu, "-smp", &self.cpus.to_string(), "-m", &self.memory_mib.to_string()])
            .args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"])
            .arg("-serial")
            .arg(format!("file:{}", logs.join("report.log").display()))
            .args(["-qmp", &listener.option()]);
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

fn read_lines(from: ChildStdout, mut log: File) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let _ = log.write_all(&line);
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_string();
            line.clear();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    lines
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest switched it off.
    PoweredOff,
    /// It was reset, by the guest or by a triple fault.
    Reset,
    /// It ended through the debug port, or QEMU failed, with this status.
    Status(i32),
}

/// A running machine; dropping it ends it.
pub struct Guest {
    child: Child,
    input: ChildStdin,
    console: Receiver<String>,
    seen: Vec<String>,
    monitor: Monitor,
    logs: PathBuf,
}

impl Guest {
    /// Waits for a console line that contains `text`, and returns it.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            match self.console.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("no \"{text}\" within {limit:?}; {}", self.where_to_look()),
                Err(RecvTimeoutError::Disconnected) => bail!("ended without \"{text}\"; {}", self.where_to_look()),
            }
        }
    }

    /// Waits for a line of SecVisor's report that contains `text`, and returns it.
    pub fn wait_for_report(&mut self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.child.try_wait()?.is_some();
            if let Some(line) = self.report()?.into_iter().find(|line| line.contains(text)) {
                return Ok(line);
            }
            ensure!(!ended, "ended without reporting \"{text}\"; {}", self.where_to_look());
            ensure!(Instant::now() < deadline, "no report \"{text}\" within {limit:?}; {}", self.where_to_look());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Types a line into the console.
    pub fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}")?;
        Ok(self.input.flush()?)
    }

    /// QEMU's control channel.
    pub fn monitor(&mut self) -> &mut Monitor {
        &mut self.monitor
    }

    /// Waits until the machine has ended by itself.
    pub fn wait_end(&mut self, limit: Duration) -> Result<End> {
        let deadline = Instant::now() + limit;
        let status = loop {
            self.seen.extend(self.console.try_iter());
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < deadline, "still running after {limit:?}; {}", self.where_to_look());
            thread::sleep(Duration::from_millis(5));
        };
        self.seen.extend(self.console.iter());
        match (status.code(), self.monitor.shutdown_reason().as_deref()) {
            (Some(0), Some("guest-shutdown")) => Ok(End::PoweredOff),
            (Some(0), Some("guest-reset")) => Ok(End::Reset),
            (Some(code), _) => Ok(End::Status(code)),
            (None, _) => bail!("QEMU was killed ({status}); {}", self.where_to_look()),
        }
    }

    /// What the console has said so far, as far as it was waited for.
    pub fn console(&self) -> &[String] {
        &self.seen
    }

    /// What SecVisor has reported so far.
    pub fn report(&self) -> Result<Vec<String>> {
        let bytes = fs::read(self.logs.join("report.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        // The last line may still be incomplete.
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        Ok(complete.lines().map(|line| line.trim_end_matches('\r').to_string()).collect())
    }

    /// Where the logs are, for a failure's message.
    pub fn where_to_look(&self) -> String {
        format!("logs in {}", self.logs.display())
    }

    /// The test is satisfied: the logs may go.
    pub fn finish(self) -> Result<()> {
        Ok(fs::remove_dir_all(&self.logs)?)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
