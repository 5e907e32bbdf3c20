//! Approvals, made by the host tool as a user makes them.

use crate::kernel::Kernel;
use crate::workspace;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Approves a kernel with all its stock modules but those called so, and with other modules.
pub fn approve(kernel: &Kernel, left_out: &[&str], others: &[PathBuf], approval: &Path) -> Result<()> {
    let mut modules = kernel.module_files()?;
    modules.retain(|(name, _)| !left_out.contains(&name.as_str()));
    let files = modules.iter().map(|(_, path)| path).chain(others);
    // Not by xshell, whose errors repeat the command: its thousand arguments say nothing.
    let status = Command::new("cargo")
        .current_dir(workspace::root())
        .args(["run", "--quiet", "--release", "--package", "secvisor", "--", "approve", "--kernel"])
        .arg(&kernel.vmlinuz)
        .arg("--output")
        .arg(approval)
        .arg("--modules")
        .args(files)
        .stdout(Stdio::null())
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "{} is not approved", kernel.vmlinuz.display());
    Ok(())
}
