//! The programs that run inside the guest.

use crate::workspace;
use anyhow::{Context, Result};
use std::path::PathBuf;
use xshell::cmd;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where they are.
pub struct Programs {
    /// The demonstration.
    pub demo: PathBuf,
    /// `secvisor status`.
    pub status: PathBuf,
    /// Attacks in great numbers.
    pub storm: PathBuf,
}

/// Builds the guest's programs, which need no library there.
pub fn build() -> Result<Programs> {
    let shell = workspace::shell()?;
    let out = workspace::target().join("guest-programs");
    let flags = format!("target.{TARGET}.rustflags=[\"-Ctarget-feature=+crt-static\",\"-Cstrip=symbols\"]");
    cmd!(shell, "cargo build --quiet --release --package secvisor-guest --target {TARGET} --config {flags}")
        .args(["--target-dir".as_ref(), out.as_os_str()])
        .quiet()
        .run()
        .context("the guest's programs do not build (a static C library is needed: libc6-dev)")?;
    let built = out.join(TARGET).join("release");
    Ok(Programs { demo: built.join("demo"), status: built.join("status"), storm: built.join("storm") })
}
