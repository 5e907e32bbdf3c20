//! Stock modules of every kind load and unload, one after the other and many at once.

use super::loading::{FUNCTIONS, chain};
use super::stage::{QUIET, Setting, Stage, no_violations, said};
use crate::guest::Guest;
use crate::machine::Machine;
use crate::play::violations;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::time::Duration;

/// A spread over all directories that is done in a minute.
const SOME: usize = 150;

/// What is tried must for the most part work, or it shows nothing.
const AT_LEAST_PERCENT: usize = 90;

/// Holds the RAM disk of some hundred modules, and the modules loaded from it.
const MEMORY_MIB: usize = 2048;

/// For each five hundred more.
const MORE_MIB: usize = 1024;

/// One module, or all at once, take seconds; a guest that says nothing for so long is stuck.
const SILENCE: Duration = Duration::from_secs(300);

/// Its functions become targets of `libeth`'s static calls (`libeth_attach_xdp`).
const CALLED_FIRST: &str = "libeth_xdp";

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

/// All that are tried stay loaded together, so that they lie between one another and over what the others have freed.
const TOGETHER: &str = r#"
keep() { load $* 2> /dev/null && kept=$((kept + 1)); }
for round in 1 2; do
  kept=0; each keep
  there=$(grep -c . /proc/modules)
  each unload 2> /dev/null
  echo "together: $kept kept, $there there, $(grep -c . /proc/modules) left"
done
"#;

/// What was seen of one sweep.
pub struct Swept {
    /// Pages of the approval.
    pub pages: u64,
    /// What SecVisor keeps for itself.
    pub kib: u64,
    /// Modules that were tried.
    pub tried: usize,
    /// Modules that loaded and unloaded.
    pub worked: usize,
    /// Violations that were reported.
    pub violations: usize,
}

/// So many modules or some more, out of every directory and in the order of the directories.
fn spread(stage: &Stage, at_least: usize) -> Result<Vec<(String, PathBuf)>> {
    let mut modules = stage.kernel.module_files()?;
    modules.sort_by(|(_, one), (_, other)| one.cmp(other));
    let step = (modules.len() / at_least).max(1);
    Ok(modules.into_iter().step_by(step).collect())
}

/// The same on a machine with so many CPUs, with figures instead of a verdict.
pub fn figures(stage: &Stage, cpus: u32, modules: usize) -> Result<Swept> {
    let modules = spread(stage, modules)?;
    let guest = sweep(stage, Setting::Beneath, &modules, TOGETHER, cpus)?;
    let report = guest.report()?;
    let line = report.iter().find(|line| line.contains(" pages in the approval, hypervisor memory "));
    let mut numbers = line.into_iter().flat_map(|line| line.rsplit([' ', ','])).filter_map(|word| word.parse().ok());
    let (kib, pages) = (numbers.next().context("no figures")?, numbers.next().context("no figures")?);
    let violations = violations(&guest)?.len();
    let swept = Swept { pages, kib, tried: modules.len(), worked: worked(&guest), violations };
    if swept.violations == 0 {
        guest.finish()?;
    }
    Ok(swept)
}

/// Some modules of every directory, beneath SecVisor.
pub fn some(stage: &Stage) -> Result<()> {
    let modules = spread(stage, SOME)?;
    let guest = sweep(stage, Setting::Beneath, &modules, TOGETHER, 1)?;
    no_violations(&guest)?;
    let worked = worked(&guest);
    println!("  {}: {worked} of {} modules loaded and unloaded", stage.kernel.release, modules.len());
    let together = said(&guest, "together");
    together.iter().for_each(|line| println!("  together: {line}"));
    let kept = |line: &&str| line.split_once(" kept").and_then(|(count, _)| count.parse().ok()).unwrap_or(0);
    let fewest = together.iter().map(kept).chain([worked]).min().unwrap_or(0);
    ensure!(together.len() == 2, "not twice together: {together:?}; {}", guest.where_to_look());
    ensure!(fewest * 100 >= modules.len() * AT_LEAST_PERCENT, "only {fewest} worked; {}", guest.where_to_look());
    guest.finish()
}

/// A module gives another its functions to call before any of its own code but init text has run.
pub fn called_first(stage: &Stage) -> Result<()> {
    let module = stage.kernel.module_files()?.into_iter().find(|(name, _)| name == CALLED_FIRST);
    let module = module.with_context(|| format!("{} has no {CALLED_FIRST}", stage.kernel.release))?;
    let guest = sweep(stage, Setting::Beneath, &[module], TOGETHER, 1)?;
    no_violations(&guest)?;
    ensure!(worked(&guest) == 1, "{CALLED_FIRST} did not load and unload; {}", guest.where_to_look());
    guest.finish()
}

/// All modules, with the same results as without SecVisor.
pub fn all(stage: &Stage) -> Result<()> {
    let modules = stage.kernel.module_files()?;
    let run = |setting| sweep(stage, setting, &modules, "", 1);
    let (beneath, native) = (run(Setting::Beneath)?, run(Setting::Native)?);
    let (got, want) = (said(&beneath, "sweep"), said(&native, "sweep"));
    let worked = worked(&beneath);
    println!("  {}: {worked} of {} modules loaded and unloaded", stage.kernel.release, modules.len());
    let otherwise: Vec<_> =
        got.iter().zip(&want).filter(|(got, want)| got != want && !got.starts_with(NEEDS_SVM)).collect();
    ensure!(
        got.len() == modules.len() && want.len() == modules.len(),
        "not all were tried; {}",
        beneath.where_to_look()
    );
    ensure!(otherwise.is_empty(), "{otherwise:?}; {}", beneath.where_to_look());
    ensure!(worked * 100 >= modules.len() * AT_LEAST_PERCENT, "only {worked} worked; {}", beneath.where_to_look());
    no_violations(&beneath)?;
    native.finish()?;
    beneath.finish()
}

/// How many modules loaded and unloaded.
fn worked(guest: &Guest) -> usize {
    said(guest, "sweep").iter().filter(|line| line.ends_with(" 0 0")).count()
}

/// Tries each of the modules, and then does what `more` says, where `each` calls a function with every chain.
fn sweep(stage: &Stage, setting: Setting, modules: &[(String, PathBuf)], more: &str, cpus: u32) -> Result<Guest> {
    let mut initrd = stage.initrd()?;
    let (mut tries, mut each) = (String::new(), String::from("each() {\n"));
    for (name, _) in modules {
        let chain = chain(stage, &mut initrd, name)?;
        tries += &format!("try {name} {chain}\n");
        each += &format!("$1 {chain}\n");
    }
    let lines = [QUIET, FUNCTIONS, TRY, &tries, &each, "}\n", more].concat();
    let mut machine = Machine::new("sweep");
    machine.memory_mib = u32::try_from(MEMORY_MIB + modules.len() / 500 * MORE_MIB)?;
    machine.cpus = cpus;
    stage.run(setting, &machine, initrd, &lines, SILENCE)
}
