//! `cargo xtask matrix`: every line and flavour of Debian's kernels, approved and booted, in one table.

use crate::bench::approval;
use crate::kernel::{Kernel, Line};
use crate::scenario::{Swept, sweep};
use anyhow::{Context, Result};
use clap::ValueEnum;
use std::fs;
use std::path::{Path, PathBuf};

/// Which cells of the table.
#[derive(clap::Args)]
pub struct Options {
    /// Only these lines, or kernels of your own, by their files
    #[arg(long, value_delimiter = ',', value_name = "LINE|VMLINUZ")]
    only: Vec<PathBuf>,
    /// Numbers of CPUs to boot with
    #[arg(long, value_delimiter = ',', default_value = "1,4")]
    cpus: Vec<u32>,
    /// Modules to load in each, at least, out of all directories; without those that need their hardware 150 are left
    #[arg(long, default_value_t = 190)]
    modules: usize,
}

const HEAD: &str = "\
| kernel | modules | approving | approval | per executable byte | unpacked | SecVisor | CPUs | loaded and unloaded | violations |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|";

/// Prints the table; tells whether every kernel was approved and booted, without a violation.
pub fn matrix(options: &Options) -> Result<bool> {
    let every = || Line::value_variants().iter().map(|line| line.name().into()).collect();
    let kernels: Vec<PathBuf> = if options.only.is_empty() { every() } else { options.only.clone() };
    println!("{HEAD}");
    let mut ok = true;
    for kernel in &kernels {
        for cpus in &options.cpus {
            match row(kernel, *cpus, options.modules) {
                Ok((row, violations)) => {
                    ok &= violations == 0;
                    println!("{row}");
                }
                Err(error) => {
                    ok = false;
                    println!("| {} | | | | | | | {cpus} | {error:#} | |", kernel.display());
                }
            }
        }
    }
    Ok(ok)
}

/// A row, and how many violations it tells of.
fn row(kernel: &Path, cpus: u32, modules: usize) -> Result<(String, usize)> {
    let kernel = Kernel::named(kernel, None)?;
    let of_all = kernel.module_files()?.len();
    let made = approval::make(&kernel, true, "approval.gz")?;
    let packed = fs::read(&made.file)?;
    let trailer = packed.last_chunk().context("an empty approval")?;
    let plain = f64::from(u32::from_le_bytes(*trailer)); // RFC 1952, 2.3.1: ISIZE
    let Swept { pages, kib, tried, worked, violations } = sweep(&kernel, cpus, modules)?;
    let code = (pages * 4096) as f64;
    let (ratio, unpacked) = (packed.len() as f64 / code, plain / code);
    let (seconds, peak) = (made.time.as_secs_f32(), made.peak_kib >> 10);
    let (size, memory) = (packed.len() as f64 / f64::from(1 << 20), kib as f64 / 1024.0);
    let row = format!(
        "| {} | {of_all} | {seconds:.1} s, {peak} MiB | {size:.1} MiB | {ratio:.2} | {unpacked:.2} | {memory:.1} MiB | {cpus} | {worked} \
         of {tried} | {violations} |",
        kernel.release
    );
    Ok((row, violations))
}
