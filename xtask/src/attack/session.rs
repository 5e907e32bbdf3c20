//! One boot with some attacks in it, watched from outside.

use crate::guest::{End, Guest};
use crate::machine::{Boot, Machine};
use crate::play::violations;
use anyhow::{Result, bail};
use std::ops::Range;
use std::time::{Duration, Instant};

/// The guest itself gives up on an attack after 60 s.
const SILENCE: Duration = Duration::from_secs(100);

/// How often a silent machine is looked at.
const LOOK: Duration = Duration::from_secs(3);

/// Alone in a machine, it is the machine that may have ended.
const SILENCE_ALONE: Duration = Duration::from_secs(70);

/// Of so many violations some must not be reported.
const MANY: u64 = 500;

/// What a guest may take until its first attack.
const START: Duration = Duration::from_secs(180);

/// How an attack ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Which.
    pub name: String,
    /// In one word.
    pub word: String,
    /// What showed it.
    pub detail: String,
    /// The violations SecVisor reported meanwhile.
    pub violations: Vec<String>,
    /// Whether the guest went on afterwards: forked, executed, wrote files, and switched itself off.
    pub alive: bool,
    /// Where the logs are, if something went wrong with the machine.
    pub logs: Option<String>,
}

/// One boot.
pub struct Session {
    guest: Guest,
    current: Option<String>,
    range: Range<u64>,
    ended: Vec<Ended>,
    alive: bool,
}

impl Session {
    /// Runs these attacks on this machine until it is off; whichever ended it is the last that is told of.
    pub fn run(machine: &Machine, boot: &Boot, names: &[String]) -> Result<Vec<Ended>> {
        let guest = machine.start(boot)?;
        let mut session = Session { guest, current: None, range: 0..0, ended: Vec::new(), alive: false };
        let end = session.follow(names)?;
        let off = end == Some(End::PoweredOff);
        let Session { guest, current, range, mut ended, alive } = session;
        let ok = off && alive && current.is_none();
        // Nobody but the last can be to blame, if the others were followed by one that ended as it should.
        for (index, one) in ended.iter_mut().rev().enumerate() {
            one.alive = ok || index > 0 || current.is_some();
        }
        let logs = guest.logs().display().to_string();
        if let Some(name) = current {
            let (word, detail) = how_it_ended(&guest, end.as_ref());
            let violations = violations(&guest)?.into_iter().filter(|line| number(line) > range.end).collect();
            ended.push(Ended { name, word, detail, violations, alive: false, logs: Some(logs) });
        } else if ok {
            guest.finish()?;
        } else if let Some(last) = ended.last_mut() {
            last.logs = Some(logs);
        }
        Ok(ended)
    }

    /// The violations of the attack that has just ended, as far as they were reported.
    fn between(&self) -> Result<Vec<String>> {
        let mut all = violations(&self.guest)?;
        all.retain(|line| number(line) > self.range.start && number(line) <= self.range.end);
        Ok(all)
    }

    /// SecVisor refuses to start: how an attack on its launch must end.
    fn not_started(&mut self, names: &[String], line: String) -> Result<()> {
        let [name] = names else { bail!("{line}") };
        let more = self.guest.wait_for("Linux version", Duration::from_secs(1));
        let word = if more.is_ok() { "started" } else { "not-started" };
        eprintln!("  {name}: {word} ({line})");
        let (name, word) = (name.clone(), word.to_string());
        self.ended.push(Ended { name, word, detail: line, violations: Vec::new(), alive: false, logs: None });
        Ok(())
    }

    /// Tells how the machine ended, if it did.
    fn follow(&mut self, names: &[String]) -> Result<Option<End>> {
        let count = names.len();
        let mut deadline = Instant::now() + START;
        loop {
            let line = match self.guest.wait_for("", LOOK.min(deadline.saturating_duration_since(Instant::now()))) {
                Ok(line) => line,
                Err(_) if self.guest.control().asleep() => break,
                Err(_) if Instant::now() < deadline && !self.guest.has_ended() => continue,
                Err(_) => break,
            };
            let Some((_, said)) = line.split_once("attack: ") else {
                if line.contains("secvisor: cannot start") {
                    self.not_started(names, line)?;
                    return Ok(None);
                }
                continue;
            };
            deadline = Instant::now() + if count == 1 { SILENCE_ALONE } else { SILENCE };
            if let Some(name) = said.strip_prefix("begin name=") {
                self.current = Some(name.to_string());
            } else if let Some(range) = parse_violations(said) {
                self.range = range;
            } else if let Some((name, word, detail)) = parse_end(said) {
                let violations = self.between()?;
                // So many that not every one may be a line of the report.
                let all = self.range.end.saturating_sub(self.range.start);
                let flooded = all >= MANY && violations.len() as u64 >= all;
                let word = if flooded { "flooded".to_string() } else { word };
                eprintln!("  {name}: {word} ({detail})");
                violations.iter().take(2).for_each(|line| eprintln!("    {line}"));
                self.current = None;
                self.ended.push(Ended { name, word, detail, violations, alive: true, logs: None });
            } else if said == "alive=yes" {
                self.alive = self.ended.len() >= count;
            } else if said == "end" {
                break;
            }
        }
        let limit = if self.current.is_some() { Duration::from_secs(1) } else { Duration::from_secs(30) };
        Ok(self.guest.wait_end(limit).ok())
    }
}

/// `violations from=.. to=..`: how many SecVisor counted before the attack and after it; -1 if it is not there.
fn parse_violations(said: &str) -> Option<Range<u64>> {
    let (from, to) = said.strip_prefix("violations from=")?.split_once(" to=")?;
    Some(from.parse().unwrap_or(0)..to.parse().unwrap_or(0))
}

/// The number of a violation, the first being 1.
fn number(line: &str) -> u64 {
    line.rsplit_once(" n=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok()).unwrap_or(0)
}

/// For an attack after which the guest said nothing more.
fn how_it_ended(guest: &Guest, end: Option<&End>) -> (String, String) {
    if end == Some(&End::Asleep) {
        return ("suspended".to_string(), "the machine sleeps".to_string());
    }
    let last = |lines: &[String], text: &str| lines.iter().rev().find(|line| line.contains(text)).cloned();
    let report = guest.report().unwrap_or_default();
    if let Some(line) = last(&report, "stopped at") {
        return ("stopped".to_string(), line);
    }
    if let Some(line) = last(&report, "panic") {
        return ("secvisor-panic".to_string(), line);
    }
    if let Some(line) = last(&report, "triple fault") {
        return ("triple-fault".to_string(), line);
    }
    if let Some(line) = last(guest.console(), "Kernel panic") {
        return ("guest-panic".to_string(), line);
    }
    if end == Some(&End::Reset) {
        return ("reset".to_string(), "the machine was reset".to_string());
    }
    ("gone".to_string(), guest.console().last().cloned().unwrap_or_default())
}

/// `name=.. result=.. detail=..`
fn parse_end(said: &str) -> Option<(String, String, String)> {
    let (name, rest) = said.strip_prefix("name=")?.split_once(" result=")?;
    let (word, detail) = rest.split_once(" detail=")?;
    Some((name.to_string(), word.to_string(), detail.to_string()))
}

#[cfg(test)]
mod tests {
    use super::parse_end;

    #[test]
    fn ends_are_understood() {
        let (name, word, detail) = parse_end("name=ret2usr result=refused detail=a detail=b").unwrap();
        assert_eq!((&*name, &*word, &*detail), ("ret2usr", "refused", "a detail=b"));
        assert!(parse_end("begin name=ret2usr").is_none());
    }
}
