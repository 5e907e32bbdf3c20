//! QEMU's control channel, just enough to learn how a machine ended and to poke it.

use crate::emulator::{Process, connected};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// Our end of the channel before QEMU has connected to it.
pub struct Listener {
    socket: UnixListener,
    /// Not in the checkout: a socket's path must be short.
    path: PathBuf,
}

impl Listener {
    /// Opens a socket for one QEMU.
    pub fn open() -> Result<Listener> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("secvisor-{}-{number}.qmp", std::process::id()));
        let _ = fs::remove_file(&path);
        let socket = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
        Ok(Listener { socket, path })
    }

    /// The option that makes QEMU connect.
    pub fn option(&self) -> String {
        format!("unix:{},server=off", self.path.display())
    }

    /// Waits for QEMU, greets it, and forwards every line it says.
    pub fn accept(self, qemu: &Process) -> Result<Monitor> {
        self.socket.set_nonblocking(true)?;
        let (stream, _) =
            connected(qemu, || self.socket.accept()).context("QEMU ended before it had started a machine")?;
        stream.set_nonblocking(false)?;
        let (sender, said) = channel();
        let reader = BufReader::new(stream.try_clone()?);
        thread::spawn(move || reader.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut monitor = Monitor { stream, said, kept: Vec::new() };
        monitor.execute("qmp_capabilities")?;
        Ok(monitor)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The open channel.
pub struct Monitor {
    stream: UnixStream,
    said: Receiver<String>,
    /// What was said and may still be asked for.
    kept: Vec<String>,
}

impl Monitor {
    /// Sends a command that takes no arguments, such as `inject-nmi`; its answer is not awaited.
    pub fn execute(&mut self, command: &str) -> Result<()> {
        writeln!(self.stream, "{{\"execute\": \"{command}\"}}")?;
        Ok(())
    }

    /// Whether an event of this name was told of.
    pub fn told_of(&mut self, event: &str) -> bool {
        let event = format!("\"event\": \"{event}\"");
        self.kept.extend(self.said.try_iter());
        self.kept.iter().any(|line| line.contains(&event))
    }

    /// Writes so many bytes of the machine's physical memory to a file.
    pub fn save_memory(&mut self, address: u64, size: u64, file: &Path) -> Result<()> {
        const ID: &str = "save-memory";
        let arguments = json!({ "val": address, "size": size, "filename": file });
        writeln!(self.stream, "{}", json!({ "execute": "pmemsave", "arguments": arguments, "id": ID }))?;
        let mut lines = std::iter::from_fn(|| self.said.recv_timeout(Duration::from_secs(10)).ok());
        let answer = lines.find(|line| line.contains(ID)).context("QEMU does not answer")?;
        ensure!(answer.contains("return"), "QEMU does not save memory: {answer}");
        Ok(())
    }

    /// Why the machine stopped (`guest-shutdown`, `guest-reset`, ..), once QEMU has ended.
    pub fn shutdown_reason(&self) -> Option<String> {
        let more = std::iter::from_fn(|| self.said.recv_timeout(Duration::from_secs(2)).ok());
        let mut lines = self.kept.iter().cloned().chain(more);
        let event = lines.find(|line| line.contains("\"event\": \"SHUTDOWN\""))?;
        Some(event.split("\"reason\": \"").nth(1)?.split('"').next()?.to_string())
    }
}
