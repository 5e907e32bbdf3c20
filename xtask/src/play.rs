//! One run of the demonstration, watched from outside.

use crate::guest::{End, Guest};
use crate::machine::{Boot, Machine};
use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// A guest that says nothing for so long is stuck; the demonstration itself gives up on a step after 60 s.
const SILENCE: Duration = Duration::from_secs(150);

/// How a step ended, in the guest's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// In one word.
    pub word: String,
    /// What showed it.
    pub detail: String,
    /// The violations SecVisor reported meanwhile.
    pub violations: Vec<String>,
}

/// What was seen of one run.
#[derive(Default)]
pub struct Play {
    /// Whether the first program ran.
    pub booted: bool,
    /// The steps that ended.
    pub outcomes: BTreeMap<String, Outcome>,
    /// What `secvisor status` said at the end.
    pub status: Map<String, Value>,
    /// The violations SecVisor reported, in any step or none.
    pub violations: Vec<String>,
    /// What went wrong with the run as a whole.
    pub trouble: Option<String>,
    /// Where the logs are.
    pub logs: PathBuf,
}

/// Violations, as SecVisor reported them.
pub fn violations(guest: &Guest) -> Result<Vec<String>> {
    Ok(guest.report()?.into_iter().filter(|line| line.starts_with("secvisor: violation ")).collect())
}

impl Play {
    /// Boots, and follows the demonstration until the machine is off. A run that goes wrong is a result, too.
    pub fn run(machine: &Machine, boot: &Boot) -> Result<Play> {
        let mut guest = machine.start(boot)?;
        let mut play = Play { logs: guest.logs().to_path_buf(), ..Default::default() };
        if let Err(error) = play.follow(&mut guest) {
            play.trouble = Some(format!("{error:#}"));
        }
        play.violations = violations(&guest)?;
        Ok(play)
    }

    /// It went as it must: the logs may go.
    pub fn finish(self) -> Result<()> {
        Ok(fs::remove_dir_all(self.logs)?)
    }

    fn follow(&mut self, guest: &mut Guest) -> Result<()> {
        loop {
            let line = next_line(guest)?;
            match parse(&line) {
                Line::Userland => self.booted = true,
                Line::Step { name, word, detail } => {
                    eprintln!("  {name}: {word} ({detail})");
                    let all = violations(guest)?;
                    let violations = all[self.violations.len()..].to_vec();
                    self.violations = all;
                    self.outcomes.insert(name, Outcome { word, detail, violations });
                }
                Line::Status(status) => self.status = status,
                Line::CannotStart => bail!("{line}"),
                Line::Panic => self.trouble = Some(line),
                Line::End => break,
                Line::Other => {}
            }
        }
        let end = guest.wait_end(SILENCE)?;
        ensure!(end == End::PoweredOff, "the guest ended by {end:?}");
        Ok(())
    }
}

fn next_line(guest: &mut Guest) -> Result<String> {
    guest.wait_for("", SILENCE).or_else(|silence| match guest.wait_end(Duration::ZERO) {
        Ok(end) => bail!("the guest ended early, by {end:?}"),
        Err(_) => Err(silence),
    })
}

/// A line of the console that tells something.
#[derive(Debug, PartialEq)]
enum Line {
    Userland,
    Step { name: String, word: String, detail: String },
    Status(Map<String, Value>),
    CannotStart,
    Panic,
    End,
    Other,
}

fn parse(line: &str) -> Line {
    if line.contains("secvisor-guest: userland") {
        return Line::Userland;
    }
    if line.contains("secvisor: cannot start") {
        return Line::CannotStart;
    }
    if line.contains("Kernel panic") {
        return Line::Panic;
    }
    let Some((_, said)) = line.split_once("demo: ") else { return Line::Other };
    let step = || {
        let (name, rest) = said.strip_prefix("step=")?.split_once(" result=")?;
        let (word, detail) = rest.split_once(" detail=")?;
        Some(Line::Step { name: name.to_string(), word: word.to_string(), detail: detail.to_string() })
    };
    let status = || Some(Line::Status(serde_json::from_str(said.strip_prefix("status=")?).ok()?));
    if said == "end" {
        return Line::End;
    }
    step().or_else(status).unwrap_or(Line::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_demonstration_are_understood() {
        let [name, word, detail] = ["heap-code", "ran", "a detail=b"].map(str::to_string);
        let line = "[    3.141592] demo: step=heap-code result=ran detail=a detail=b";
        assert_eq!(parse(line), Line::Step { name, word, detail });
        assert_eq!(parse("[    3.141592] demo: end"), Line::End);
        assert_eq!(parse("demo: step=torn"), Line::Other);
        assert_eq!(parse("secvisor: cannot start: no SVM"), Line::CannotStart);
        let Line::Status(status) = parse("demo: status={\"version\":1,\"exits\":{\"io\":2}}") else {
            panic!("no status")
        };
        assert_eq!(status["exits"]["io"], 2);
    }
}
