//! `cargo xtask size`: how many lines of code everybody has to trust
//!
//! The compiler says which files are in the image, `docs/tcb.md` says which of them run after the guest has started.

mod lines;

use crate::{toolchain, workspace};
use anyhow::{Context, Result, bail, ensure};
use lines::Features;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use xshell::cmd;

/// Where it is written which file runs when.
const TABLE: &str = "docs/tcb.md";
/// The package that is the image.
const IMAGE: &str = "secvisor-hypervisor";
/// Where its build leaves what it was made from.
const BUILD: &str = "target/none/x86_64-unknown-none/release";
/// What a paper got by with, for comparison.
const PAPER: usize = 1112;

/// How to show it.
#[derive(clap::Args)]
pub struct Options {
    /// End with one JSON object on a line of its own
    #[arg(long)]
    json: bool,
}

/// When a file's code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// At least some of it while the guest runs.
    Runtime,
    /// Before the guest's first instruction only.
    Launch,
}

impl Phase {
    const ALL: [Phase; 2] = [Phase::Runtime, Phase::Launch];

    fn name(self) -> &'static str {
        match self {
            Phase::Runtime => "runtime",
            Phase::Launch => "launch",
        }
    }
}

struct Counted {
    file: String,
    phase: Phase,
    lines: usize,
}

/// Counts and shows.
pub fn size(options: &Options) -> Result<()> {
    toolchain::build_hypervisor(&[])?;
    let table = fs::read_to_string(workspace::root().join(TABLE)).with_context(|| format!("no {TABLE}"))?;
    let phases = phases(&table)?;
    let compiled = compiled_files()?;
    check(&phases, &compiled)?;
    let files = phases.into_iter().map(|(file, phase)| {
        let lines = own_lines(&file).with_context(|| file.clone())?;
        Ok(Counted { file, phase, lines })
    });
    let files = files.collect::<Result<Vec<_>>>()?;
    let dependencies = dependencies()?;
    print!("{}", text(&files, &dependencies));
    if options.json {
        println!("{}", object(&files, &dependencies));
    }
    Ok(())
}

/// The rows `| file | phase | what it does |`.
fn phases(table: &str) -> Result<BTreeMap<String, Phase>> {
    let mut phases = BTreeMap::new();
    for row in table.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [file, phase, ..] = cells[..] else { continue };
        if !file.ends_with(".rs") {
            continue;
        }
        let known = Phase::ALL.into_iter().find(|known| known.name() == phase);
        let phase = known.with_context(|| format!("{TABLE}: {file} runs at no known phase: {phase}"))?;
        ensure!(phases.insert(file.to_string(), phase).is_none(), "{TABLE}: {file} is there twice");
    }
    Ok(phases)
}

/// The files the image was made from, as the compiler wrote them down; build scripts are not in it.
fn compiled_files() -> Result<BTreeSet<String>> {
    let root = workspace::root();
    let files = made_from(&root.join(BUILD).join(IMAGE).with_extension("d"))?;
    let files = files.iter().filter_map(|file| file.strip_prefix(&root).ok()?.to_str());
    Ok(files.filter(|file| file.ends_with(".rs") && !file.ends_with("/build.rs")).map(str::to_string).collect())
}

/// What stands behind the colon of the first rule.
fn made_from(rules: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string(rules).with_context(|| format!("no {}", rules.display()))?;
    let (_, files) = text.lines().next().and_then(|rule| rule.split_once(": ")).context("no rule")?;
    const SPACE: &str = "\u{0}";
    let files = files.replace("\\ ", SPACE);
    Ok(files.split_whitespace().map(|file| PathBuf::from(file.replace(SPACE, " "))).collect())
}

fn check(phases: &BTreeMap<String, Phase>, compiled: &BTreeSet<String>) -> Result<()> {
    let missing: Vec<_> = compiled.iter().filter(|file| !phases.contains_key(*file)).cloned().collect();
    let stale: Vec<_> = phases.keys().filter(|file| !compiled.contains(*file)).cloned().collect();
    ensure!(missing.is_empty(), "{TABLE} lacks what is in the image: {}", missing.join(", "));
    ensure!(stale.is_empty(), "{TABLE} names what is not in the image: {}", stale.join(", "));
    Ok(())
}

/// Lines of code of a file of this workspace, as rustfmt would write it.
fn own_lines(file: &str) -> Result<usize> {
    let root = workspace::root();
    let output = Command::new("rustfmt")
        .args(["--edition", "2024", "--emit", "stdout", "--config-path"])
        .arg(&root)
        .stdin(File::open(root.join(file))?)
        .stderr(Stdio::inherit())
        .output()
        .context("rustfmt is needed")?;
    ensure!(output.status.success(), "rustfmt refuses it");
    lines::count(&String::from_utf8(output.stdout)?, Features::Off)
}

/// The crates of others in the image, with the lines of those of their files that were compiled.
fn dependencies() -> Result<Vec<(String, usize)>> {
    let shell = workspace::shell()?;
    let tree = cmd!(shell, "cargo tree --package {IMAGE} --target x86_64-unknown-none --edges normal --prefix none")
        .args(["--no-dedupe", "--format", "{p};{lib}"])
        .quiet()
        .read()?;
    let mut counted = BTreeMap::new();
    for line in tree.lines() {
        let Some((package, library)) = line.split_once(';') else { bail!("cargo tree says {line:?}") };
        // Those of the workspace are named with their directories.
        if package.contains('(') {
            continue;
        }
        let files = made_from(&newest(&workspace::root().join(BUILD).join("deps"), &format!("{library}-"))?)?;
        let files = files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs"));
        let lines = files.map(|file| lines::count(&fs::read_to_string(file)?, Features::Unknown));
        counted.insert(package.to_string(), lines.sum::<Result<usize>>()?);
    }
    Ok(counted.into_iter().collect())
}

/// What the last build of a crate was made from.
fn newest(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with(prefix) && name.ends_with(".d")
    };
    let entries = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let newest =
        entries.into_iter().filter(named).max_by_key(|path| fs::metadata(path).and_then(|m| m.modified()).ok());
    newest.with_context(|| format!("{}: no {prefix}*.d", directory.display()))
}

fn total(files: &[Counted], phase: Phase) -> usize {
    files.iter().filter(|counted| counted.phase == phase).map(|counted| counted.lines).sum()
}

fn text(files: &[Counted], dependencies: &[(String, usize)]) -> String {
    let mut text = String::from("lines of code in the image, nested paging\n");
    for phase in Phase::ALL {
        text += &format!("\n{:40}{:>8}\n", phase.name(), total(files, phase));
        let of_phase = files.iter().filter(|counted| counted.phase == phase);
        of_phase.for_each(|counted| text += &format!("  {:38}{:>8}\n", counted.file, counted.lines));
    }
    text += "\ndependencies, besides core\n";
    dependencies.iter().for_each(|(name, lines)| text += &format!("  {name:38}{lines:>8}\n"));
    text + &format!("\nthe paper's runtime, for comparison{PAPER:>13}\n")
}

fn object(files: &[Counted], dependencies: &[(String, usize)]) -> Value {
    let dependencies = dependencies.iter().map(|(package, lines)| {
        let (name, version) = package.split_once(" v").unwrap_or((package, ""));
        json!({ "name": name, "version": version, "lines": lines })
    });
    let each = files.iter().map(|Counted { file, phase, lines }| (file.clone(), json!([phase.name(), lines])));
    json!({
        "nested": { "runtime": total(files, Phase::Runtime), "launch": total(files, Phase::Launch) },
        "dependencies": dependencies.collect::<Vec<_>>(),
        "files": each.collect::<serde_json::Map<_, _>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &str = "# Title\n| file | phase | what it does |\n|---|---|---|\n\
        | `a/src/lib.rs` | runtime | all |\n| `b.rs` | launch | little |\n";

    #[test]
    fn the_table_must_fit_the_image() {
        let phases = phases(ROWS).unwrap();
        assert_eq!(phases["a/src/lib.rs"], Phase::Runtime);
        let image = |files: &[&str]| files.iter().map(|file| file.to_string()).collect();
        assert!(check(&phases, &image(&["a/src/lib.rs", "b.rs"])).is_ok());
        assert!(check(&phases, &image(&["a/src/lib.rs"])).is_err());
        assert!(check(&phases, &image(&["a/src/lib.rs", "b.rs", "c.rs"])).is_err());
    }

    #[test]
    fn a_table_with_mistakes_is_refused() {
        assert!(phases("| a.rs | sometimes | x |").is_err());
        assert!(phases("| a.rs | launch | x |\n| a.rs | runtime | x |").is_err());
    }
}
