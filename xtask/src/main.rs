//! `cargo xtask`: fetch what is needed, build, run, test.

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use xtask::debian::{self, Release};
use xtask::kernel::Line;
use xtask::{attack, bench, fetch::Bundle, matrix, model, run, size, test, toolchain, tools};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fetch everything the other tasks need; later runs need no network.
    Fetch {
        /// Replace what is cached by what the archive offers today.
        #[arg(long)]
        refresh: bool,
        /// Get a whole Debian, too, and install it on a disk.
        #[arg(long, value_name = "RELEASE", value_delimiter = ',')]
        debian: Vec<Release>,
    },
    /// Build the hypervisor and say where its image is.
    Build {
        /// Features for tests.
        #[arg(long, value_delimiter = ',')]
        features: Vec<String>,
    },
    /// Boot a stock kernel beneath SecVisor and run the demonstration, there and without.
    Run(run::Options),
    /// Run every attack without SecVisor and beneath it.
    Attack(attack::Options),
    /// Try everything an adversary can do, on small machines with the real rules.
    Model(model::Options),
    /// Approve and boot every line and flavour of Debian's kernels, and print the table of docs/kernels.md.
    Matrix(matrix::Options),
    /// Count what SecVisor costs in instructions and exits.
    Bench(bench::Options),
    /// Count the lines of code that have to be trusted.
    Size(size::Options),
    /// Check the format, lint, and run every test.
    Test {
        /// Only the boots in QEMU whose name is this, or if there is none, contains it.
        #[arg(long)]
        only: Option<String>,
    },
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells whether all is well; what went wrong has then been said.
fn perform(task: Task) -> Result<bool> {
    match task {
        Task::Fetch { refresh, debian } => fetch(refresh, &debian)?,
        Task::Build { features } => {
            let features: Vec<_> = features.iter().map(String::as_str).collect();
            println!("{}", toolchain::build_hypervisor(&features)?.display());
        }
        Task::Run(options) => return run::run(&options),
        Task::Attack(options) => return attack::attack(&options),
        Task::Model(options) => return model::model(&options),
        Task::Matrix(options) => return matrix::matrix(&options),
        Task::Bench(options) => return bench::bench(&options),
        Task::Size(options) => size::size(&options)?,
        Task::Test { only } => return test::all(only.as_deref()),
    }
    Ok(true)
}

fn fetch(refresh: bool, systems: &[Release]) -> Result<()> {
    let mut bundles: Vec<Bundle> = vec![tools::qemu_bundle()];
    bundles.extend(Line::USUAL.map(Line::bundle));
    bundles.push(Line::Cloud7.bundle());
    bundles.extend([tools::busybox_bundle(), tools::grub_bundle(), tools::bochs_bundle()]);
    bundles.extend(systems.iter().map(|release| debian::pool::bundle(*release)));
    for bundle in bundles {
        let directory = if refresh { bundle.refresh()? } else { bundle.obtain()? };
        println!("ready   {:14} {}", bundle.name, directory.display());
    }
    for release in systems {
        let disk = debian::disk::Disk::obtain(*release)?;
        println!("ready   {:14} {}", format!("{} disk", release.name()), disk.image.display());
    }
    println!("ready   {:14} {:?}", "core library", toolchain::Core::obtain()?);
    Ok(())
}
