//! `cargo xtask`: fetch what is needed, build, run, test.

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::kernel::Line;
use xtask::{fetch::Bundle, tools};

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
    },
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Fetch { refresh } => fetch(refresh),
    }
}

fn fetch(refresh: bool) -> Result<()> {
    let mut bundles: Vec<Bundle> = vec![tools::qemu_bundle()];
    bundles.extend(Line::USUAL.map(Line::bundle));
    bundles.extend([tools::busybox_bundle(), tools::grub_bundle()]);
    for bundle in bundles {
        if refresh {
            bundle.forget()?;
        }
        let directory = bundle.obtain()?;
        println!("ready   {:14} {}", bundle.name, directory.display());
    }
    Ok(())
}
