//! Attacks in great numbers: SecVisor's report stays bounded, and the system lives.

use super::stage::{QUIET, Setting, Stage, no_violations, said};
use crate::guest::Guest;
use crate::machine::Machine;
use crate::play::violations;
use crate::program;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// The report is bounded by so many lines, and one for each further power of two.
const FULL_LINES: usize = 256;

/// Runs the guest's program `storm` with these arguments, the module that is full of holes loaded.
fn storm(stage: &Stage, setting: Setting, arguments: &str) -> Result<Guest> {
    let mut initrd = stage.initrd()?;
    let programs = program::build()?;
    initrd.add_file("bin/storm", &programs.storm)?;
    initrd.add_file("bin/secvisor", &programs.status)?;
    let lines = format!(
        "{QUIET}echo 0 > /proc/sys/kernel/panic_on_oops; insmod /modules/vulnerable.ko\nstorm {arguments}\n\
         secvisor status --json > /dev/null 2>&1; ls / > /dev/null && echo storm: lives\n"
    );
    stage.run(setting, &Machine::new("storm"), initrd, &lines, Duration::from_secs(180))
}

/// The number in the guest's answer after this word.
fn number(guest: &Guest, word: &str) -> Result<u64> {
    let answer = said(guest, "storm").join(" ");
    let start = format!("{word}=");
    let value = answer.split_whitespace().find_map(|part| part.strip_prefix(&start));
    let value = value.with_context(|| format!("no {word} in \"{answer}\"; {}", guest.where_to_look()))?;
    Ok(value.parse()?)
}

fn lives_and_is_bounded(guest: &Guest, attacks: u64) -> Result<()> {
    let place = guest.where_to_look();
    ensure!(said(guest, "storm").last() == Some(&"lives"), "the system does not live; {place}");
    let reported = violations(guest)?;
    let most = FULL_LINES + 64;
    ensure!(reported.len() <= most, "{} lines; {place}", reported.len());
    let counted = reported.last().and_then(|line| line.split(" n=").nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0);
    ensure!(counted <= attacks && attacks < 2 * counted.max(256), "{attacks} attacks, {counted} counted; {place}");
    println!("  {attacks} attacks, {} lines", reported.len());
    Ok(())
}

/// Calls of code that nobody approved.
pub fn calls(stage: &Stage) -> Result<()> {
    let native = storm(stage, Setting::Native, "calls 1")?;
    ensure!(number(&native, "ran")? > 0, "the attack fails without SecVisor; {}", native.where_to_look());
    let beneath = storm(stage, Setting::Beneath, "calls 6")?;
    let [ran, killed, other] = ["ran", "killed", "other"].map(|word| number(&beneath, word));
    let (ran, killed, other) = (ran?, killed?, other?);
    ensure!(ran == 0 && other == 0, "{ran} ran, {other} ended otherwise; {}", beneath.where_to_look());
    lives_and_is_bounded(&beneath, killed)?;
    native.finish()?;
    beneath.finish()
}

/// Overwriting kernel text.
pub fn tampering(stage: &Stage) -> Result<()> {
    const TIMES: u64 = 5000;
    let native = storm(stage, Setting::Native, "tampering 10")?;
    ensure!(number(&native, "ran")? == 10, "the attack fails without SecVisor; {}", native.where_to_look());
    let beneath = storm(stage, Setting::Beneath, &format!("tampering {TIMES}"))?;
    ensure!(number(&beneath, "restored")? == TIMES, "not all was put back; {}", beneath.where_to_look());
    lives_and_is_bounded(&beneath, TIMES)?;
    native.finish()?;
    beneath.finish()
}

/// Hypercalls with wild numbers, from user mode.
pub fn hypercalls(stage: &Stage) -> Result<()> {
    const TIMES: u64 = 20_000;
    let guest = storm(stage, Setting::Beneath, &format!("hypercalls {TIMES}"))?;
    ensure!(number(&guest, "refused")? == TIMES, "some were answered; {}", guest.where_to_look());
    for word in ["answered", "changed", "gaps", "violations-moved"] {
        ensure!(number(&guest, word)? == 0, "{word} is not 0; {}", guest.where_to_look());
    }
    no_violations(&guest)?;
    guest.finish()
}
