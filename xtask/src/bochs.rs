//! Machines in Bochs, which emulates AMD's processors in more detail than QEMU, and slower.
//!
//! Bochs boots discs only, so that everything goes through GRUB. It says on standard error what happens to the machine,
//! and would go on after a reset; we end it then, as `-no-reboot` makes QEMU end.

use crate::disc::{Disc, Protocol};
use crate::emulator::{Control, Process, REPORT, Running, connected};
use crate::guest::End;
use crate::machine::{Boot, Machine};
use crate::qemu;
use crate::tools::Bochs;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// The processor: the oldest of AMD's with a Zen core.
const CPU: &str = "ryzen";

/// How many instructions make a second of the machine's time; about what a host core manages.
const SPEED: u32 = 50_000_000;

/// Starts a machine.
pub fn start(machine: &Machine, boot: &Boot, logs: &Path) -> Result<Running> {
    ensure!(machine.qemu == qemu::Options::default(), "Bochs has no such machine: {:?}", machine.qemu);
    let bochs = Bochs::obtain()?;
    let disc = disc(boot, logs)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port for the console")?;
    let settings = logs.join("bochsrc");
    fs::write(&settings, configuration(machine, &bochs, &disc, &listener, logs)?)?;
    let mut command = bochs.command();
    command.args(["-q", "-f"]).arg(&settings);
    fs::write(logs.join("command"), format!("{command:?}\n"))?;
    // The network card writes what it sends to the directory Bochs is in.
    command.current_dir(logs).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start Bochs")?;
    let said = child.stderr.take().context("no log")?;
    let process = Process::new(child);
    let (sender, events) = channel();
    let log = logs.join("bochs.log");
    follow(said, File::create(&log)?, process.clone(), sender);
    let console = accept(&listener, &process)
        .with_context(|| format!("Bochs did not start the machine; logs in {}", logs.display()))?;
    let input = Box::new(console.try_clone()?);
    Ok(Running { process, console: Box::new(console), input, control: Box::new(Watch { events, last: None }) })
}

/// What the machine boots from.
fn disc(boot: &Boot, logs: &Path) -> Result<PathBuf> {
    let disc = match boot {
        Boot::Disk => bail!("Bochs is given no disks"),
        Boot::Disc { uefi: true, .. } => bail!("there is no UEFI for Bochs"),
        Boot::Disc { iso, uefi: false } => return Ok(iso.clone()),
        Boot::Native { vmlinuz, initrd, cmdline } => Disc {
            protocol: Protocol::Linux,
            image: vmlinuz.clone(),
            cmdline: cmdline.clone(),
            modules: vec![(initrd.clone(), String::new())],
        },
        Boot::Multiboot { image, cmdline, modules } => Disc {
            protocol: Protocol::Multiboot2,
            image: image.clone(),
            cmdline: cmdline.clone(),
            modules: modules.clone(),
        },
    };
    disc.write(&logs.join("disc.iso"))
}

/// The settings of Bochs, one in a line.
fn configuration(machine: &Machine, bochs: &Bochs, disc: &Path, console: &TcpListener, logs: &Path) -> Result<String> {
    let Machine { memory_mib, cpus, .. } = machine;
    let [bios, vga_bios] = bochs.firmware();
    let mut lines = vec![
        format!("cpu: model={CPU}, count={cpus}, ips={SPEED}, reset_on_triple_fault=1"),
        format!("megs: {memory_mib}"),
        format!("romimage: file={}", text(&bios)?),
        format!("vgaromimage: file={}", text(&vga_bios)?),
        format!("ata0-master: type=cdrom, path={}, status=inserted", text(disc)?),
        "boot: cdrom".to_string(),
        format!("com1: enabled=1, mode=socket-client, dev=127.0.0.1:{}", console.local_addr()?.port()),
        format!("com2: enabled=1, mode=file, dev={}", text(&logs.join(REPORT))?),
        // A display that nobody looks at, and no loudspeaker.
        "display_library: rfb, options=\"timeout=0\"".to_string(),
        "plugin_ctrl: speaker=false".to_string(),
        // The machine's time is that of its instructions: a host that is busy with other things changes nothing.
        "clock: sync=none, time0=utc".to_string(),
        "log: -".to_string(),
        "panic: action=fatal".to_string(),
        "error: action=ignore".to_string(),
        "info: action=report".to_string(),
        "debug: action=ignore".to_string(),
    ];
    if machine.pci_devices {
        lines.push("pci: enabled=1, chipset=i440fx, slot1=pcivga, slot2=e1000".to_string());
        lines.push("e1000: card=0, enabled=1, mac=52:54:00:12:34:56, ethmod=null".to_string());
    }
    Ok(lines.into_iter().map(|line| line + "\n").collect())
}

/// Bochs splits its settings at commas.
fn text(path: &Path) -> Result<&str> {
    let text = path.to_str().context("a path is not text")?;
    ensure!(!text.contains([',', '"', '$']), "Bochs cannot use a path with a comma, a quote or a dollar: {text}");
    Ok(text)
}

/// Waits until Bochs connects the machine's first serial line.
fn accept(listener: &TcpListener, bochs: &Process) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let (stream, _) = connected(bochs, || listener.accept())?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// What becomes of the machine, in the words of Bochs's log.
fn event(line: &str) -> Option<End> {
    let known = [
        ("ACPI control: soft power off", End::PoweredOff),
        ("ACPI control: suspend to ram", End::Asleep),
        ("bx_pc_system_c::Reset(HARDWARE) called", End::Reset),
        // Of the CPUs alone.
        ("bx_pc_system_c::Reset(SOFTWARE) called", End::Reset),
    ];
    known.into_iter().find(|(text, _)| line.contains(text)).map(|(_, end)| end)
}

/// Keeps what Bochs says, tells of what ends the machine, and ends Bochs where it would start the machine again.
fn follow(said: ChildStderr, mut log: File, process: Process, events: Sender<End>) {
    thread::spawn(move || {
        // A machine begins with a reset.
        let mut begun = false;
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            let _ = writeln!(log, "{line}");
            let Some(end) = event(&line) else { continue };
            if end == End::Reset && !begun {
                begun = true;
                continue;
            }
            let again = end != End::PoweredOff;
            let _ = events.send(end);
            if again {
                process.kill();
            }
        }
    });
}

/// What Bochs tells of the machine.
struct Watch {
    events: Receiver<End>,
    /// How it ended, if it has.
    last: Option<End>,
}

impl Watch {
    /// The first thing that ended it.
    fn first(&mut self, limit: Duration) -> Option<End> {
        if self.last.is_none() {
            self.last = self.events.recv_timeout(limit).ok();
        }
        self.last.clone()
    }
}

impl Control for Watch {
    fn end(&mut self, status: ExitStatus) -> Option<End> {
        // The log may be read a moment after Bochs has ended; then its end is seen, too.
        self.first(Duration::from_secs(2)).or_else(|| status.code().map(End::Status))
    }

    fn asleep(&mut self) -> bool {
        self.first(Duration::ZERO) == Some(End::Asleep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_machine_is_understood() {
        assert_eq!(event("02804555159i[SYS   ] bx_pc_system_c::Reset(HARDWARE) called"), Some(End::Reset));
        assert_eq!(event("13437578354p[ACPI  ] >>PANIC<< ACPI control: soft power off"), Some(End::PoweredOff));
        assert_eq!(event("13437578354i[CPU0  ] RDMSR: Read 00000000:fee00900 from MSR_APICBASE"), None);
    }

    #[test]
    fn paths_that_would_be_torn_apart_are_refused() {
        assert!(text(Path::new("/a/b c")).is_ok());
        assert!(text(Path::new("/a,b")).is_err());
    }
}
