//! Stock modules of every kind load and unload.

use super::loading::{FUNCTIONS, chain};
use super::stage::{QUIET, Setting, Stage, no_violations, said};
use crate::guest::Guest;
use crate::qemu::Machine;
use anyhow::{Result, ensure};
use std::path::PathBuf;
use std::time::Duration;

/// A spread over all directories that is done in a minute.
const EVERY: usize = 7;

/// What is tried must for the most part work, or it shows nothing.
const AT_LEAST_PERCENT: usize = 90;

/// Holds the module's RAM disk beside the modules it loads.
const MEMORY_MIB: u32 = 2048;

/// What must be otherwise beneath SecVisor: no guest of it gets SVM.
const NEEDS_SVM: &str = "kvm_amd";

/// `try NAME CHAIN` says whether the module loaded, and whether it and what it depends on went away again.
const TRY: &str = r#"
try() {
  name=$1; shift
  load $* 2> /dev/null; loaded=$?
  unload $* 2> /dev/null
  echo "sweep: $name $loaded $?"
}
"#;

/// Some modules of every directory, beneath SecVisor.
pub fn some(stage: &Stage) -> Result<()> {
    let mut modules = stage.kernel.module_files()?;
    modules.sort_by(|(_, one), (_, other)| one.cmp(other));
    let modules: Vec<_> = modules.into_iter().step_by(EVERY).collect();
    let guest = sweep(stage, Setting::Beneath, &modules, Duration::from_secs(300))?;
    let worked = said(&guest, "sweep").iter().filter(|line| line.ends_with(" 0 0")).count();
    println!("  {}: {worked} of {} modules loaded and unloaded", stage.kernel.release, modules.len());
    ensure!(worked * 100 >= modules.len() * AT_LEAST_PERCENT, "only {worked} worked; {}", guest.where_to_look());
    no_violations(&guest)?;
    guest.finish()
}

/// All modules, with the same results as without SecVisor.
pub fn all(stage: &Stage) -> Result<()> {
    let modules = stage.kernel.module_files()?;
    let run = |setting| sweep(stage, setting, &modules, Duration::from_secs(1800));
    let (beneath, native) = (run(Setting::Beneath)?, run(Setting::Native)?);
    let (got, want) = (said(&beneath, "sweep"), said(&native, "sweep"));
    let worked = got.iter().filter(|line| line.ends_with(" 0 0")).count();
    println!("  {}: {worked} of {} modules loaded and unloaded", stage.kernel.release, modules.len());
    let otherwise: Vec<_> =
        got.iter().zip(&want).filter(|(got, want)| got != want && !got.starts_with(NEEDS_SVM)).collect();
    ensure!(got.len() == want.len() && otherwise.is_empty(), "{otherwise:?}; {}", beneath.where_to_look());
    no_violations(&beneath)?;
    native.finish()?;
    beneath.finish()
}

fn sweep(stage: &Stage, setting: Setting, modules: &[(String, PathBuf)], limit: Duration) -> Result<Guest> {
    let mut initrd = stage.initrd()?;
    let mut lines = [QUIET, FUNCTIONS, TRY].concat();
    for (name, _) in modules {
        lines += &format!("try {name} {}\n", chain(stage, &mut initrd, name)?);
    }
    let mut machine = Machine::new("sweep");
    machine.memory_mib = MEMORY_MIB;
    stage.run(setting, &machine, initrd, &lines, limit)
}
