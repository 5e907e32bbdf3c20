//! Approvals, made by the host tool as a user makes them.

use crate::kernel::Kernel;
use crate::workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use xshell::cmd;

/// Approves a kernel with all its stock modules but those called so, and with other modules; returns the approval.
pub fn approve(kernel: &Kernel, left_out: &[&str], others: &[PathBuf]) -> Result<PathBuf> {
    let mut modules = kernel.module_files()?;
    modules.retain(|(name, _)| !left_out.contains(&name.as_str()));
    let files = modules.iter().map(|(_, path)| path).chain(others);
    let approval = workspace::target().join("approvals").join(&kernel.release).with_extension("approval");
    write(&kernel.vmlinuz, files, &approval)?;
    Ok(approval)
}

fn write<'a>(vmlinuz: &Path, modules: impl Iterator<Item = &'a PathBuf>, approval: &Path) -> Result<()> {
    fs::create_dir_all(approval.parent().context("no directory")?)?;
    let shell = workspace::shell()?;
    cmd!(shell, "cargo run --quiet --release --package secvisor -- approve --kernel {vmlinuz} --output {approval}")
        .arg("--modules")
        .args(modules)
        .quiet()
        .ignore_stdout()
        .run()
        .with_context(|| format!("{} is not approved", vmlinuz.display()))
}
