//! Approving a kernel, and what that takes on the host

use super::result::Target;
use crate::kernel::Kernel;
use crate::workspace;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use xshell::cmd;

/// An approval, and what making it took.
pub struct Made {
    /// The approval.
    pub file: PathBuf,
    /// Whether it is that of all modules, too.
    pub with_modules: bool,
    /// How long it took.
    pub time: Duration,
    /// The most memory that was in use, in KiB.
    pub peak_kib: u64,
}

/// Approves with the host tool, as a user does; compressed if the ending is `approval.gz`.
pub fn make(kernel: &Kernel, with_modules: bool, ending: &str) -> Result<Made> {
    let shell = workspace::shell()?;
    cmd!(shell, "cargo build --quiet --release --package secvisor").quiet().run()?;
    let name = format!("{}-bench.{ending}", kernel.release);
    let file = workspace::target().join("approvals").join(name);
    fs::create_dir_all(file.parent().context("no directory")?)?;
    let mut command = Command::new(workspace::target().join("release/secvisor"));
    command.arg("approve").arg("--kernel").arg(&kernel.vmlinuz).arg("--output").arg(&file);
    if with_modules {
        command.arg("--modules").arg(&kernel.modules);
    }
    let log = file.with_extension("log");
    command.stdout(Stdio::null()).stderr(fs::File::create(&log)?);
    let start = Instant::now();
    let (status, peak_kib) = run(command)?;
    let time = start.elapsed();
    ensure!(status.success(), "{} is not approved: {}", kernel.vmlinuz.display(), fs::read_to_string(&log)?.trim_end());
    Ok(Made { file, with_modules, time, peak_kib })
}

/// Runs it to its end; also tells the most memory that was in use, in KiB.
fn run(mut command: Command) -> Result<(ExitStatus, u64)> {
    let child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let pid = i32::try_from(child.id())?;
    let mut status = 0;
    // SAFETY: all zeros is a valid `rusage`; the call fills it and the status. The child is ours and nobody else waits
    // for it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        ensure!(libc::wait4(pid, &mut status, 0, &mut usage) == pid, "nothing to wait for");
        usage
    };
    Ok((ExitStatus::from_raw(status), usage.ru_maxrss as u64))
}

impl Made {
    /// In one line.
    pub fn text(&self) -> String {
        let modules = if self.with_modules { "with" } else { "without" };
        let (seconds, mib) = (self.time.as_secs_f32(), self.peak_kib / 1024);
        format!("approving the kernel {modules} its modules: {seconds:.1} s, at most {mib} MiB")
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let bytes = fs::metadata(&self.file).map(|metadata| metadata.len()).ok();
        json!({
            "modules": self.with_modules,
            "seconds": self.time.as_secs_f64(),
            "peak_kib": self.peak_kib,
            "bytes": bytes,
        })
    }

    /// What it must not exceed.
    pub fn targets(&self) -> [Target; 2] {
        [
            Target { what: "approve with all modules, seconds", limit: 10.0, measured: self.time.as_secs_f64() },
            Target { what: "approve with all modules, MiB", limit: 1024.0, measured: self.peak_kib as f64 / 1024.0 },
        ]
    }
}
