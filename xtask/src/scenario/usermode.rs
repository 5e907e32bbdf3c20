//! What programs may do in user mode is the same beneath SecVisor.

use super::stage::{QUIET, Setting, Stage, no_violations, said};
use crate::machine::Machine;
use crate::workspace;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::time::Duration;
use xshell::cmd;

/// Runs the program `usermode` in both settings and compares what it says.
pub fn same_lines(stage: &Stage) -> Result<()> {
    let program = build()?;
    let run = |setting| {
        let mut initrd = stage.initrd()?;
        initrd.add_file("bin/usermode", &program)?;
        let lines = [QUIET, "usermode"].concat();
        stage.run(setting, &Machine::new("usermode"), initrd, &lines, Duration::from_secs(180))
    };
    let (native, beneath) = (run(Setting::Native)?, run(Setting::Beneath)?);
    let (want, got) = (said(&native, "usermode"), said(&beneath, "usermode"));
    ensure!(want.last() == Some(&"done, 0 failed"), "without SecVisor: {want:?}; {}", native.where_to_look());
    let differing: Vec<_> = got.iter().filter(|line| !want.contains(line)).collect();
    ensure!(want == got, "other lines than without SecVisor: {differing:?}; {}", beneath.where_to_look());
    no_violations(&beneath)?;
    native.finish()?;
    beneath.finish()
}

fn build() -> Result<PathBuf> {
    let source = workspace::root().join("guest/usermode/usermode.c");
    let program = workspace::target().join("guest-programs/usermode");
    let shell = workspace::shell()?;
    shell.create_dir(workspace::target().join("guest-programs"))?;
    cmd!(shell, "gcc -static -O1 -no-pie -fcf-protection=none -o {program} {source}")
        .quiet()
        .run()
        .context("the guest's program usermode does not build (gcc and libc6-dev are needed)")?;
    Ok(program)
}
