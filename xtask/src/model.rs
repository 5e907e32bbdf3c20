//! `cargo xtask model`: everything an adversary can do, tried on small machines.

use crate::workspace;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::process::Command;
use xshell::cmd;

/// The package with the model.
const PACKAGE: &str = "secvisor-model";

/// Where it is written what the model finds.
const TABLE: &str = "docs/model.md";

/// What to try, and how to show it.
#[derive(clap::Args)]
pub struct Options {
    /// Number of CPUs, 1 or 2
    #[arg(long, value_name = "N")]
    cpus: Option<String>,
    /// Leave out only this check, and show the whole counterexample
    #[arg(long, value_name = "NAME")]
    without: Option<String>,
    /// Only this machine
    #[arg(long, value_name = "NAME")]
    world: Option<String>,
    /// Say what can be left out, and which machines there are
    #[arg(long)]
    list: bool,
    /// End with one JSON object on a line of its own
    #[arg(long)]
    json: bool,
}

impl Options {
    /// The same for the model's own program, which judges them.
    fn arguments(&self) -> Vec<String> {
        let named = [("cpus", &self.cpus), ("without", &self.without), ("world", &self.world)];
        let named = named.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?)));
        let plain = [("--list", self.list), ("--json", self.json)].into_iter().filter(|(_, given)| *given);
        named.chain(plain.map(|(name, _)| name.to_string())).collect()
    }
}

/// Runs the model; tells whether it found everything as it must be. What is not, it has said itself.
pub fn model(options: &Options) -> Result<bool> {
    Ok(program()?.args(options.arguments()).status().context("cargo is needed")?.success())
}

/// The model as a whole: whether it is as it must be, and as `docs/model.md` says.
pub fn as_documented() -> Result<()> {
    let output = program()?.arg("--json").output().context("cargo is needed")?;
    let said = String::from_utf8(output.stdout)?;
    let object: Value = said.lines().last().and_then(|last| serde_json::from_str(last).ok()).unwrap_or_default();
    ensure!(output.status.success() && object["ok"] == true, "{said}{}", String::from_utf8_lossy(&output.stderr));
    let table = fs::read_to_string(workspace::root().join(TABLE)).with_context(|| format!("no {TABLE}"))?;
    let rows = rows(&said);
    let missing: Vec<_> = rows.iter().filter(|row| !table.lines().any(|line| row.is(line))).map(Row::show).collect();
    ensure!(missing.is_empty(), "{TABLE} lacks: {}", missing.join("; "));
    // A check or machine that is in the table only.
    let listed = table.lines().filter(|line| Row::names(line)).count();
    ensure!(listed == rows.len(), "{TABLE} has {listed} rows, the model says {}", rows.len());
    Ok(())
}

/// The smallest machine with two CPUs, and what matters only there.
pub fn two_cpus() -> Result<()> {
    let two = |what: &str| {
        let output = program()?.args(["--cpus=2", what]).output().context("cargo is needed")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        Ok(())
    };
    ["--world=views", "--without=flush-all-cpus", "--without=close-windows"].into_iter().try_for_each(two)
}

/// The model's program, built.
fn program() -> Result<Command> {
    let shell = workspace::shell()?;
    cmd!(shell, "cargo build --release --quiet --package {PACKAGE}").quiet().run()?;
    Ok(cmd!(shell, "cargo run --release --quiet --package {PACKAGE} --").into())
}

/// What the model has said of a machine or a check, and `docs/model.md` has to say: in the first cell, and the last two.
struct Row<'s>(&'s str, [&'s str; 2]);

impl Row<'_> {
    fn is(&self, line: &str) -> bool {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        cells.len() > 2 && cells.first() == Some(&self.0) && cells.ends_with(&self.1)
    }

    /// Whether a line of the document is one of these rows: its last cell but one is a number.
    fn names(line: &str) -> bool {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        matches!(cells[..], ["", _, _, number, _, ""] if number.replace(',', "").parse::<u32>().is_ok())
    }

    fn show(&self) -> String {
        format!("| {} | .. | {} | {} |", self.0, self.1[0], self.1[1])
    }
}

/// "kernel 189,524 states 17 steps deep 8.0 s", "freeze | 2 | bytes change between comparison and approval"
fn rows(said: &str) -> Vec<Row<'_>> {
    let row = |line| -> Option<Row<'_>> {
        let words: Vec<&str> = str::split_whitespace(line).collect();
        if let [name, states, "states", depth, "steps", "deep", ..] = words[..] {
            return Some(Row(name, [states, depth]));
        }
        let [name, steps, property] = line.split(" | ").map(str::trim).collect::<Vec<_>>()[..] else { return None };
        steps.parse::<u32>().ok().map(|_| Row(name, [steps, property]))
    };
    said.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_found_in_the_table() {
        let said = "kernel     189,524 states  17 steps deep    8.0 s\n\n\
            check      | steps | property broken without it\nfreeze     |     2 | bytes change\nsummary: ok\n";
        let rows = rows(said);
        let [kernel, freeze] = &rows[..] else { panic!("two rows") };
        assert!(
            kernel.is("| kernel | two pages | 189,524 | 17 |") && !kernel.is("| kernel | two pages | 189,524 | 18 |")
        );
        assert!(freeze.is("| `freeze` | a frame is frozen | 2 | bytes change |"));
        assert!(!freeze.is("| `freeze` | a frame is frozen | 3 | bytes change |") && !freeze.is("| freeze |"));
        assert!(Row::names("| kernel | two pages | 189,524 | 17 |") && Row::names("| `x` | what it is | 2 | bytes |"));
        assert!(!Row::names("| machine | | states | longest way |") && !Row::names("|---|---|---:|---|"));
    }

    #[test]
    fn options_are_passed_on() {
        let options =
            Options { cpus: Some("2".into()), without: Some("-x".into()), world: None, list: false, json: true };
        assert_eq!(options.arguments(), ["--cpus=2", "--without=-x", "--json"]);
    }
}
