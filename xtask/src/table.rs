//! Two runs of the demonstration side by side, for people and for programs.

use crate::demo::{STEPS, Step};
use crate::play::{Outcome, Play};
use serde_json::{Value, json};
use std::fmt::Write;

/// What both runs showed; one of them may not have been wanted.
pub struct Comparison<'a> {
    /// What `uname -r` says.
    pub release: &'a str,
    /// How many CPUs the guest had.
    pub cpus: u32,
    /// The run without SecVisor.
    pub native: &'a Play,
    /// The run beneath SecVisor.
    pub secvisor: Option<&'a Play>,
}

impl Comparison<'_> {
    /// Whether everything ended as it must.
    pub fn ok(&self) -> bool {
        self.plays().all(|(_, play)| play.booted && play.trouble.is_none())
            && STEPS.iter().all(|step| self.step_ok(step))
    }

    /// A line per step, and below it what was seen.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut row = |cells: [&str; 4]| {
            let [step, native, secvisor, verdict] = cells;
            let _ = writeln!(text, "{step:24}{native:20}{secvisor:20}{verdict}");
        };
        row(["step", "without SecVisor", "beneath SecVisor", "as it must be"]);
        for step in &STEPS {
            let [native, secvisor] = self.sides(step).map(|side| side.map_or("-", |outcome| &outcome.word));
            row([step.name, native, secvisor, if self.step_ok(step) { "yes" } else { "NO" }]);
        }
        for step in &STEPS {
            let _ = writeln!(text, "\n{}", step.name);
            for (label, side) in ["without", "beneath"].iter().zip(self.sides(step)) {
                if let Some(outcome) = side {
                    let _ = writeln!(text, "  {label}: {}", outcome.detail);
                    outcome.violations.iter().for_each(|line| {
                        let _ = writeln!(text, "    {line}");
                    });
                }
            }
        }
        for (label, play) in self.plays() {
            if let Some(trouble) = &play.trouble {
                let _ = writeln!(text, "\nthe run {label} SecVisor went wrong: {trouble}");
            }
            if !self.ok() {
                let _ = writeln!(text, "\nlogs of the run {label} SecVisor: {}", play.logs.display());
            }
        }
        text
    }

    /// The same as one object.
    pub fn json(&self) -> Value {
        let steps = STEPS.iter().map(|step| {
            let [native, secvisor] = self.sides(step);
            let word = |side: Option<&Outcome>| side.map(|outcome| outcome.word.clone());
            let detail = |side: Option<&Outcome>| side.map(|outcome| outcome.detail.clone());
            json!({
                "name": step.name,
                "native": word(native),
                "secvisor": word(secvisor),
                "ok": self.step_ok(step),
                "native_detail": detail(native),
                "secvisor_detail": detail(secvisor),
                "violations": secvisor.map(|outcome| &outcome.violations),
            })
        });
        let beneath = self.secvisor.unwrap_or(self.native);
        json!({
            "kernel": self.release,
            "paging": self.secvisor.map(|_| "nested"),
            "cpus": self.cpus,
            "booted": beneath.booted,
            "steps": steps.collect::<Vec<_>>(),
            "exits": beneath.status.get("exits").cloned().unwrap_or_else(|| json!({})),
            "status": beneath.status,
            "violations": beneath.violations.len(),
            "ok": self.ok(),
        })
    }

    fn plays(&self) -> impl Iterator<Item = (&'static str, &Play)> {
        [("without", Some(self.native)), ("beneath", self.secvisor)]
            .into_iter()
            .filter_map(|(label, play)| Some((label, play?)))
    }

    fn step_ok(&self, step: &Step) -> bool {
        let [native, secvisor] = self.sides(step);
        let ended = |side: Option<&Outcome>, word, reported| {
            side.is_some_and(|outcome| outcome.word == word && outcome.violations.is_empty() != reported)
        };
        let reported = step.native != step.secvisor;
        ended(native, step.native, false) && (self.secvisor.is_none() || ended(secvisor, step.secvisor, reported))
    }

    /// How a step ended without and beneath SecVisor.
    fn sides(&self, step: &Step) -> [Option<&Outcome>; 2] {
        [Some(self.native), self.secvisor].map(|play| play?.outcomes.get(step.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(word: fn(&Step) -> &'static str) -> Play {
        let outcome = |step: &Step| {
            let word = word(step).to_string();
            let violations = if ["works", "ran"].contains(&&*word) { vec![] } else { vec!["one".to_string()] };
            Outcome { word, detail: "seen".to_string(), violations }
        };
        let outcomes = STEPS.iter().map(|step| (step.name.to_string(), outcome(step))).collect();
        Play { booted: true, outcomes, ..Default::default() }
    }

    #[test]
    fn ok_is_what_must_be_on_both_sides() {
        let (native, secvisor) = (play(|step| step.native), play(|step| step.secvisor));
        let compare = |native, secvisor| Comparison { release: "6.1", cpus: 1, native, secvisor };
        assert!(compare(&native, Some(&secvisor)).ok());
        assert!(compare(&native, None).ok());
        // The forbidden thing ran beneath SecVisor.
        assert!(!compare(&native, Some(&native)).ok());
        // It did not even run without: the demonstration shows nothing.
        assert!(!compare(&secvisor, Some(&secvisor)).ok());
        // SecVisor did not report it.
        let mut silent = play(|step| step.secvisor);
        silent.outcomes.values_mut().for_each(|outcome| outcome.violations.clear());
        assert!(!compare(&native, Some(&silent)).ok());
        let incomplete = Play { booted: true, ..Default::default() };
        assert!(!compare(&native, Some(&incomplete)).ok());
    }

    #[test]
    fn json_has_its_shape() {
        let native = play(|step| step.native);
        let json = Comparison { release: "6.1", cpus: 1, native: &native, secvisor: None }.json();
        assert_eq!(json["steps"].as_array().unwrap().len(), STEPS.len());
        assert_eq!(json["steps"][2]["native"], "ran");
        assert!(json["steps"][2]["secvisor"].is_null());
        assert_eq!(json["ok"], true);
        assert_eq!(json["violations"], 0);
    }
}
