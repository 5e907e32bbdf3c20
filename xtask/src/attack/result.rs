//! How all attacks ended, for people and for programs.

use super::manifest::Attack;
use super::session::Ended;
use crate::emulator::Emulator;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The write had no effect, because the emulator has no such register.
const IGNORED: &str = "ignored";

/// The forbidden thing was done.
const SUCCEEDED: &str = "succeeded";

/// Which run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Without SecVisor, or beneath a build that lacks the one check.
    Native,
    /// Beneath SecVisor.
    SecVisor,
}

/// How all attacks ended.
pub struct Results {
    release: String,
    emulator: Emulator,
    cpus: u32,
    attacks: Vec<Attack>,
    only_native: bool,
    ended: BTreeMap<(Side, String), Ended>,
}

impl Results {
    /// None has ended yet.
    pub fn new(release: &str, emulator: Emulator, cpus: u32, attacks: &[Attack], only_native: bool) -> Results {
        let mut attacks = attacks.to_vec();
        if only_native {
            attacks.retain(|attack| attack.boots.feature.is_none());
        }
        Results { release: release.to_string(), emulator, cpus, attacks, only_native, ended: BTreeMap::new() }
    }

    /// Takes note of what one side showed.
    pub fn note(&mut self, side: Side, ended: Vec<Ended>) {
        self.ended.extend(ended.into_iter().map(|one| ((side, one.name.clone()), one)));
    }

    /// Whether everything ended as it must.
    pub fn ok(&self) -> bool {
        self.attacks.iter().all(|attack| self.attack_ok(attack))
    }

    fn of(&self, side: Side, attack: &Attack) -> Option<&Ended> {
        self.ended.get(&(side, attack.name.clone()))
    }

    fn attack_ok(&self, attack: &Attack) -> bool {
        let native = self.of(Side::Native, attack).is_some_and(|ended| {
            // Bochs has registers that QEMU lacks.
            let there = self.emulator == Emulator::Bochs && attack.native == IGNORED && ended.word == SUCCEEDED;
            ended.word == attack.native || there
        });
        let secvisor = || {
            self.of(Side::SecVisor, attack).is_some_and(|ended| {
                let named = attack.rule.as_ref().is_none_or(|rule| broken(ended).contains(&rule.as_str()));
                // An attack that is meant to end the machine is alone in it.
                let ends = !["refused", "restored", "harmless"].contains(&&*attack.secvisor);
                ended.word == attack.secvisor && named && (ended.alive || ends)
            })
        };
        native && (self.only_native || secvisor())
    }

    /// A line per attack, and what was seen of those that ended otherwise than they must.
    pub fn text(&self) -> String {
        let mut text = format!("{}, {} CPUs\n", self.release, self.cpus);
        let mut row = |cells: [&str; 6]| {
            let [row, name, native, secvisor, rule, ok] = cells;
            let _ = writeln!(text, "{row:5}{name:24}{native:14}{secvisor:14}{rule:20}{ok}");
        };
        row(["row", "attack", "without", "beneath", "rule", "as it must be"]);
        for attack in &self.attacks {
            let word = |side| self.of(side, attack).map_or("-", |ended| &ended.word);
            let rule = self.of(Side::SecVisor, attack).map(broken).unwrap_or_default().join(",");
            let ok = if self.attack_ok(attack) { "yes" } else { "NO" };
            row([&attack.row, &attack.name, word(Side::Native), word(Side::SecVisor), &rule, ok]);
        }
        for attack in self.attacks.iter().filter(|attack| !self.attack_ok(attack)) {
            let _ = writeln!(text, "\n{}: must be {}, then {}", attack.name, attack.native, attack.secvisor);
            for side in [Side::Native, Side::SecVisor] {
                let Some(ended) = self.of(side, attack) else { continue };
                let _ = writeln!(text, "  {side:?}: {} ({})", ended.word, ended.detail);
                ended.violations.iter().take(8).for_each(|line| {
                    let _ = writeln!(text, "    {line}");
                });
                if let Some(logs) = &ended.logs {
                    let _ = writeln!(text, "    logs: {logs}");
                }
            }
        }
        let right = self.attacks.iter().filter(|attack| self.attack_ok(attack)).count();
        let _ = writeln!(text, "{right} of {} attacks ended as they must", self.attacks.len());
        text
    }

    /// The same as one object.
    pub fn json(&self) -> Value {
        let attacks = self.attacks.iter().map(|attack| {
            let side = |side| self.of(side, attack);
            json!({
                "row": attack.row,
                "name": attack.name,
                "native": side(Side::Native).map(|ended| &ended.word),
                "secvisor": side(Side::SecVisor).map(|ended| &ended.word),
                "rule": side(Side::SecVisor).map(broken).unwrap_or_default().join(","),
                "without": attack.boots.feature,
                "ok": self.attack_ok(attack),
            })
        });
        json!({ "kernel": self.release, "cpus": self.cpus, "attacks": attacks.collect::<Vec<_>>(), "ok": self.ok() })
    }
}

/// The rules that SecVisor said were broken, each once.
fn broken(ended: &Ended) -> Vec<&str> {
    let mut rules: Vec<_> =
        ended.violations.iter().filter_map(|line| line.split("rule=").nth(1)?.split(' ').next()).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::manifest::{Boots, Cpus};

    fn ended(word: &str, rule: &str, alive: bool) -> Vec<Ended> {
        let violations = vec![format!("secvisor: violation rule={rule} cpu=0")];
        vec![Ended { name: "a".into(), word: word.into(), detail: String::new(), violations, alive, logs: None }]
    }

    #[test]
    fn an_attack_is_right_only_if_both_sides_and_the_rule_are() {
        let attack = Attack {
            row: "1".into(),
            name: "a".into(),
            boots: Boots { group: "shared".into(), feature: None },
            cpus: Cpus::Any,
            native: "succeeded".into(),
            secvisor: "refused".into(),
            rule: Some("unapproved-code".into()),
        };
        let judge = |native: &str, secvisor: &str, rule: &str, alive| {
            let mut results = Results::new("6.1", Emulator::Qemu, 1, std::slice::from_ref(&attack), false);
            results.note(Side::Native, ended(native, "", true));
            results.note(Side::SecVisor, ended(secvisor, rule, alive));
            results.ok()
        };
        assert!(judge("succeeded", "refused", "unapproved-code", true));
        assert!(!judge("failed", "refused", "unapproved-code", true));
        assert!(!judge("succeeded", "succeeded", "unapproved-code", true));
        assert!(!judge("succeeded", "refused", "tampered", true));
        assert!(!judge("succeeded", "refused", "unapproved-code", false));
    }

    #[test]
    fn a_register_that_only_bochs_has_may_be_written_there_without_secvisor() {
        let attack = Attack {
            row: "1".into(),
            name: "a".into(),
            boots: Boots { group: "shared".into(), feature: None },
            cpus: Cpus::Any,
            native: IGNORED.into(),
            secvisor: "refused".into(),
            rule: None,
        };
        let judge = |emulator, native: &str, secvisor: &str| {
            let mut results = Results::new("6.1", emulator, 1, std::slice::from_ref(&attack), false);
            results.note(Side::Native, ended(native, "", true));
            results.note(Side::SecVisor, ended(secvisor, "register", true));
            results.ok()
        };
        let bochs = |native, secvisor| judge(Emulator::Bochs, native, secvisor);
        assert!(bochs("ignored", "refused") && bochs("succeeded", "refused"));
        assert!(!bochs("failed", "refused") && !bochs("succeeded", "succeeded") && !bochs("succeeded", "ignored"));
        assert!(judge(Emulator::Qemu, "ignored", "refused") && !judge(Emulator::Qemu, "succeeded", "refused"));
    }
}
