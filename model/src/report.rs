//! Everything at once: every machine, then every check left out; and what is said of it
use std::io::{self, Write};
use std::time::Instant;

use serde_json::{Map, Value};

use crate::machine::Options;
use crate::search::{Counterexample, Progress, Search, shortest};
use crate::switch::{self, PUBLISHED, Switch};
use crate::world::World;

/// What came of it.
#[derive(Default)]
pub struct Report {
    states: usize,
    complete: bool,
    violations: Vec<Counterexample>,
    /// Every check with what happens without it.
    necessary: Vec<(Switch, Option<Counterexample>)>,
    /// The same for what is assumed.
    assumed: Option<Counterexample>,
}

/// Explores some machines and says how far it came.
pub fn explore(worlds: &[World], cpus: usize, threads: usize, out: &mut impl Write) -> io::Result<Report> {
    let mut report = Report { complete: true, ..Report::default() };
    for world in worlds {
        let start = Instant::now();
        let mut search = Search::new(world, Options { cpus, left_out: None }, threads);
        let violation = loop {
            match search.level() {
                Progress::Open => {}
                Progress::Complete => break None,
                Progress::Broken(found) => break Some(found),
            }
        };
        let (states, depth, seconds) = (search.states(), search.depth(), start.elapsed().as_secs_f32());
        writeln!(out, "{:8} {:>9} states {depth:>3} steps deep {seconds:>6.1} s", world.name, grouped(states))?;
        report.states += states;
        report.complete &= violation.is_none();
        if let Some(found) = violation {
            tell(&found, out)?;
            report.violations.push(found);
        }
    }
    Ok(report)
}

/// Explores every machine, with several CPUs the smallest; then leaves out every check there is.
pub fn examine(cpus: usize, threads: usize, out: &mut impl Write) -> io::Result<Report> {
    let worlds = World::all();
    let explored = if cpus > 1 { &worlds[..1] } else { &worlds };
    let mut report = explore(explored, cpus, threads, out)?;
    let without = |switch: Switch, out: &mut _| {
        let found = shortest(&worlds, Options { cpus, left_out: Some(switch) }, threads);
        row(switch, found.as_ref(), out).map(|()| found)
    };
    writeln!(out, "\n{:WIDTH$} | steps | property broken without it", "check")?;
    for switch in switch::checks(cpus) {
        let found = without(switch, out)?;
        report.necessary.push((switch, found));
    }
    writeln!(out, "\n{:WIDTH$} | steps | property broken without it", "assumption")?;
    report.assumed = without(Switch::QuietDevices, out)?;
    let found = |s: &Switch| report.necessary.iter().any(|(other, found)| other == s && found.is_some());
    let published: Vec<String> = PUBLISHED.iter().filter(|s| found(s)).map(|s| s.name()).collect();
    writeln!(out, "\npublished attacks found: {}", published.join(", "))?;
    report.summary(out)?;
    Ok(report)
}

/// Leaves out one check and tells what happens; none if nothing does.
pub fn without(
    switch: Switch,
    worlds: &[World],
    cpus: usize,
    threads: usize,
    out: &mut impl Write,
) -> io::Result<Option<Counterexample>> {
    writeln!(out, "without {}: {}", switch.name(), switch.what())?;
    let found = shortest(worlds, Options { cpus, left_out: Some(switch) }, threads);
    match &found {
        Some(found) => tell(found, out)?,
        None => writeln!(out, "nothing happens")?,
    }
    Ok(found)
}

const WIDTH: usize = 23;

fn row(switch: Switch, found: Option<&Counterexample>, out: &mut impl Write) -> io::Result<()> {
    let (steps, property) = match found {
        Some(found) => (found.steps.len().to_string(), found.property),
        None => ("-".into(), "NO COUNTEREXAMPLE"),
    };
    writeln!(out, "{:WIDTH$} | {steps:>5} | {property}", switch.name())
}

fn tell(found: &Counterexample, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "on the machine \"{}\":", found.world)?;
    for (number, step) in found.steps.iter().enumerate() {
        writeln!(out, "{:3}. {step}", number + 1)?;
    }
    writeln!(out, "     {}", found.property)
}

/// A number that is easy to read.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Report {
    /// Whether every state was seen, nothing is broken, and nothing there is could be left out.
    pub fn ok(&self) -> bool {
        let all = !self.necessary.is_empty() && self.necessary.iter().all(|(_, found)| found.is_some());
        self.sound() && all && self.assumed.is_some()
    }

    /// Whether every state was seen and nothing is broken.
    pub fn sound(&self) -> bool {
        self.complete && self.violations.is_empty()
    }

    fn summary(&self, out: &mut impl Write) -> io::Result<()> {
        let complete = if self.complete { "complete" } else { "not complete" };
        let needed = self.necessary.iter().filter(|(_, found)| found.is_some()).count();
        writeln!(
            out,
            "{} states, {complete}, {} violations; {needed} of {} checks necessary: {}",
            grouped(self.states),
            self.violations.len(),
            self.necessary.len(),
            if self.ok() { "ok" } else { "NOT OK" }
        )
    }

    /// The same as one JSON object.
    pub fn json(&self) -> String {
        let told = |found: &Counterexample| Value::from(format!("{}: {}", found.steps.join("; "), found.property));
        let found = self.necessary.iter().filter_map(|(s, found)| Some((s.name(), told(found.as_ref()?))));
        format!(
            r#"{{"states":{},"complete":{},"violations":{},"necessary":{},"ok":{}}}"#,
            self.states,
            self.complete,
            self.violations.len(),
            Value::from(found.collect::<Map<_, _>>()),
            self.ok()
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found() -> Counterexample {
        let steps = vec!["one thing".into(), "another, \"quoted\"".into()];
        Counterexample { world: "kernel", steps, property: "it is broken", answers: Vec::new() }
    }

    #[test]
    fn the_object_is_as_promised() {
        let necessary = vec![(PUBLISHED[1], Some(found()))];
        let mut report =
            Report { states: 1234567, complete: true, necessary, assumed: Some(found()), ..Report::default() };
        let object: Value = serde_json::from_str(&report.json()).expect("JSON");
        let wanted = json!({
            "states": 1234567, "complete": true, "violations": 0,
            "necessary": {"writable-alias": "one thing; another, \"quoted\": it is broken"}, "ok": true
        });
        assert_eq!(object, wanted);
        let mut text = Vec::new();
        report.summary(&mut text).expect("room");
        assert_eq!(text, b"1,234,567 states, complete, 0 violations; 1 of 1 checks necessary: ok\n");

        report.necessary.push((PUBLISHED[0], None));
        assert!(!report.ok() && report.sound(), "a check that nothing rests on");
        report.necessary.pop();
        report.violations.push(found());
        assert!(!report.ok() && !report.sound());
    }

    #[test]
    fn a_counterexample_is_told_one_step_a_line() {
        let mut text = Vec::new();
        without(PUBLISHED[1], &World::all()[..1], 1, 1, &mut text).expect("room").expect("a counterexample");
        let text = String::from_utf8(text).expect("text");
        assert!(text.starts_with("without writable-alias: "), "{text}");
        assert!(text.contains("\n  1. somebody writes to the frame of K0\n  2. "), "{text}");
        assert!(text.ends_with("\n     memory is executable at CPL 0 and writable\n"), "{text}");
    }
}
