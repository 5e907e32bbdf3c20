//! What the workload in the guest says of itself

use crate::guest::End;
use crate::machine::{Boot, Machine};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// A guest that says nothing for so long is stuck.
const SILENCE: Duration = Duration::from_secs(300);

/// What every line of the workload begins with.
const PREFIX: &str = "bench: ";

/// One run's results.
#[derive(Debug, Default)]
pub struct Measured {
    /// Instructions from the start of the machine to the first line of the first program.
    pub boot: u64,
    /// The operations in their order.
    pub operations: Vec<Operation>,
    /// What happened in stretches of time, by their names.
    pub periods: BTreeMap<String, Period>,
    /// Exits of the whole workload by their reasons.
    pub workload: BTreeMap<String, f64>,
    /// Writes to approved frames since the first user-mode instruction; none said without SecVisor.
    pub writes_after_boot: Option<u64>,
}

/// What one operation took.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// What it is called.
    pub name: String,
    /// Instructions executed, SecVisor's included.
    pub instructions: f64,
    /// Exits; none without SecVisor.
    pub exits: f64,
    /// Switches between the views.
    pub switches: f64,
    /// TLB flushes.
    pub flushes: f64,
    /// Exits by their reasons.
    pub reasons: BTreeMap<String, f64>,
}

/// Some time, most of it spent in one way.
#[derive(Clone, Debug, PartialEq)]
pub struct Period {
    /// Timer ticks meanwhile.
    pub ticks: u64,
    /// System calls that were needed.
    pub calls: u64,
    /// Exits.
    pub exits: f64,
}

impl Measured {
    /// Boots the workload and listens until the machine is off.
    pub fn run(machine: &Machine, boot: &Boot) -> Result<Measured> {
        let mut guest = machine.start(boot)?;
        let mut measured = Measured::default();
        loop {
            let line = guest.wait_for("", SILENCE).context("the workload did not come to its end")?;
            ensure!(!line.contains("secvisor: cannot start"), "{line}");
            ensure!(!line.contains("Kernel panic"), "{line}; {}", guest.where_to_look());
            match line.split_once(PREFIX) {
                Some((_, "end")) => break,
                Some((_, said)) => {
                    measured.take(said).with_context(|| format!("{line:?}; {}", guest.where_to_look()))?
                }
                None => {}
            }
        }
        let end = guest.wait_end(SILENCE)?;
        ensure!(end == End::PoweredOff, "the guest ended by {end:?}; {}", guest.where_to_look());
        guest.finish()?;
        Ok(measured)
    }

    /// The operation of this name.
    pub fn operation(&self, name: &str) -> Option<&Operation> {
        self.operations.iter().find(|operation| operation.name == name)
    }

    fn take(&mut self, said: &str) -> Result<()> {
        let said: Value = serde_json::from_str(said)?;
        let counters = &said["counters"];
        let number = |value: &Value| value.as_f64().unwrap_or_default();
        let whole = |value: &Value| value.as_u64().context("no number");
        if let Some(name) = said["op"].as_str() {
            self.operations.push(Operation {
                name: name.to_string(),
                instructions: said["instructions"].as_f64().context("no number")?,
                exits: number(&counters["exits"]),
                switches: number(&counters["switches"]),
                flushes: number(&counters["tlb_flushes"]),
                reasons: reasons(counters),
            });
        } else if let Some(name) = said["period"].as_str() {
            let (ticks, calls) = (whole(&said["ticks"])?, whole(&said["calls"])?);
            self.periods.insert(name.to_string(), Period { ticks, calls, exits: number(&counters["exits"]) });
        } else if said["boot"].is_u64() {
            self.boot = whole(&said["boot"])?;
        } else if said["workload"].is_object() {
            self.workload = reasons(&said["workload"]);
        } else if said["writes_after_boot"].is_u64() {
            self.writes_after_boot = Some(whole(&said["writes_after_boot"])?);
        } else {
            bail!("not understood");
        }
        Ok(())
    }
}

fn reasons(counters: &Value) -> BTreeMap<String, f64> {
    let reasons = counters["reasons"].as_object().into_iter().flatten();
    reasons.filter_map(|(name, count)| Some((name.clone(), count.as_f64()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_workload_are_understood() {
        let mut measured = Measured::default();
        let counters = r#"{"exits":2.0,"switches":2.0,"tlb_flushes":0.07,"reasons":{"syscall":1.0}}"#;
        let lines = [
            r#"{"boot":1590385924}"#.to_string(),
            format!(r#"{{"op":"getppid","instructions":840.4,"counters":{counters}}}"#),
            r#"{"op":"stat","instructions":7228.3,"counters":null}"#.to_string(),
            format!(r#"{{"period":"idle-second","ticks":18,"calls":1,"counters":{counters}}}"#),
            format!(r#"{{"workload":{counters}}}"#),
            r#"{"writes_after_boot":0}"#.to_string(),
        ];
        lines.iter().for_each(|line| measured.take(line).unwrap());
        assert_eq!(measured.boot, 1_590_385_924);
        assert_eq!(measured.operation("getppid").unwrap().reasons["syscall"], 1.0);
        assert_eq!(measured.operation("stat").unwrap().exits, 0.0);
        assert_eq!(measured.periods["idle-second"], Period { ticks: 18, calls: 1, exits: 2.0 });
        assert_eq!(measured.writes_after_boot, Some(0));
        assert!(measured.take("{\"op\":\"torn\"}").is_err());
        assert!(measured.take("{}").is_err());
    }
}
