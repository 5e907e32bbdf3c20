//! What the host does: approving a kernel, and the comparison of a page, natively

use super::approval;
use super::result::{Target, missed, target_lines};
use crate::kernel::Kernel;
use crate::progress::during;
use crate::workspace;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use xshell::cmd;

/// Most microseconds a page may take.
const LIMIT: f64 = 5.0;

/// Measures and shows; tells whether every target is met.
pub fn bench(kernel: &Kernel, as_json: bool) -> Result<bool> {
    let approving = format!("approving {} and its modules", kernel.release);
    let made = during(&approving, || approval::make(kernel, true, "approval"))?;
    let page = during("verifying pages", || verify_page(&made.file))?;
    let mut targets = vec![Target { what: "verify a page, microseconds", limit: LIMIT, measured: page }];
    targets.extend(made.targets());
    let ok = targets.iter().all(Target::met);
    println!("{}\n\n{}", made.text(), target_lines(&targets).trim_end());
    if as_json {
        println!(
            "{}",
            json!({
                "kernel": kernel.release,
                "verify_page_us": page,
                "approve": made.json(),
                "missed": missed(&targets),
                "ok": ok,
            })
        );
    }
    Ok(ok)
}

/// The mean time in microseconds that criterion found for the pages of this kernel.
fn verify_page(approval: &Path) -> Result<f64> {
    let shell = workspace::shell()?;
    let package = ["--package", "secvisor-rules", "--bench", "verify"];
    cmd!(shell, "cargo bench --quiet --no-run {package...}").quiet().run()?;
    // What criterion shows on its way is not wanted; what it found is in its file.
    cmd!(shell, "cargo bench --quiet {package...} -- --noplot")
        .env("SECVISOR_APPROVAL", approval)
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()?;
    let estimates = workspace::target().join("criterion/verify/kernel pages/new/estimates.json");
    let estimates = fs::read(&estimates).with_context(|| format!("no {}", estimates.display()))?;
    let estimates: Value = serde_json::from_slice(&estimates)?;
    let nanoseconds = estimates["mean"]["point_estimate"].as_f64().context("criterion gives no mean")?;
    Ok(nanoseconds / 1000.0)
}
