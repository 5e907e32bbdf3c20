//! Both runs side by side, and whether the targets are met

use super::approval::Made;
use super::measured::{Measured, Operation};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// Exits are averages: a tick in the middle batch does not count.
const ROUNDING: f64 = 0.01;

/// What was measured in one invocation.
pub struct Outcome {
    /// What `uname -r` says.
    pub release: String,
    /// Without SecVisor.
    pub native: Measured,
    /// Beneath SecVisor.
    pub secvisor: Measured,
    /// Instructions of firmware and boot loader, which both boots begin with.
    pub firmware: u64,
    /// The approval, and what it took to make.
    pub approval: Made,
}

/// Something that must not be exceeded.
pub struct Target {
    /// What is limited.
    pub what: &'static str,
    /// The most that is allowed.
    pub limit: f64,
    /// What was measured.
    pub measured: f64,
}

impl Target {
    /// Whether it is not exceeded.
    pub fn met(&self) -> bool {
        self.measured <= self.limit
    }
}

/// A line per target.
pub fn target_lines(targets: &[Target]) -> String {
    let mut text = format!("{:52}{:>12}{:>12}  met\n", "target", "at most", "measured");
    for target in targets {
        let verdict = if target.met() { "yes" } else { "NO" };
        let _ = writeln!(text, "{:52}{:>12}{:>12.3}  {verdict}", target.what, target.limit, target.measured);
    }
    text
}

/// The targets that are missed, by what they limit.
pub fn missed(targets: &[Target]) -> Vec<&'static str> {
    targets.iter().filter(|target| !target.met()).map(|target| target.what).collect()
}

impl Outcome {
    /// Whether every target that could be judged is met.
    pub fn ok(&self) -> bool {
        self.targets().iter().all(Target::met)
    }

    /// A line per operation, then one per target.
    pub fn text(&self) -> String {
        let mut text = format!("{}, one CPU; instructions, without and beneath SecVisor\n\n", self.release);
        let mut row = |cells: [String; 6]| {
            let [name, native, secvisor, ratio, exits, flushes] = cells;
            let _ = writeln!(text, "{name:20}{native:>16}{secvisor:>16}{ratio:>9}{exits:>9}{flushes:>13}");
        };
        row(["operation", "without", "beneath", "ratio", "exits", "TLB flushes"].map(str::to_string));
        for (native, secvisor) in self.operations() {
            row([
                native.name.clone(),
                format!("{:.0}", native.instructions),
                format!("{:.0}", secvisor.instructions),
                format!("{:.3}", secvisor.instructions / native.instructions),
                format!("{:.1}", secvisor.exits),
                format!("{:.2}", secvisor.flushes),
            ]);
        }
        let [native, secvisor] = self.boot();
        let ratio = format!("{:.3}", secvisor as f64 / native as f64);
        row(["boot".to_string(), native.to_string(), secvisor.to_string(), ratio, String::new(), String::new()]);
        for (name, period) in &self.secvisor.periods {
            let (ticks, calls) = (period.ticks, period.calls);
            let _ = writeln!(text, "{name:20}{:.0} exits: {ticks} timer ticks, {calls} system calls", period.exits);
        }
        let _ = writeln!(text, "\n{}", self.approval.text());
        text + "\n" + &target_lines(&self.targets())
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let operations = self.operations().map(|(native, secvisor)| {
            let value = json!({
                "native": native.instructions,
                "secvisor": secvisor.instructions,
                "ratio": secvisor.instructions / native.instructions,
                "exits": secvisor.exits,
                "switches": secvisor.switches,
                "tlb_flushes": secvisor.flushes,
                "reasons": secvisor.reasons,
            });
            (native.name.clone(), value)
        });
        let periods = self.secvisor.periods.iter().map(|(name, period)| {
            (name.clone(), json!({ "exits": period.exits, "ticks": period.ticks, "calls": period.calls }))
        });
        let [native, secvisor] = self.boot();
        let targets = self.targets();
        json!({
            "kernel": self.release,
            "paging": "nested",
            "cpus": 1,
            "ops": operations.collect::<Map<_, _>>(),
            "switch_instructions": self.switch_instructions(),
            "tlb_flushes_per_switch": self.flushes_per_switch(),
            "boot": {
                "native": native,
                "secvisor": secvisor,
                "ratio": secvisor as f64 / native as f64,
                "firmware": self.firmware,
            },
            "periods": periods.collect::<Map<_, _>>(),
            "workload_exits": self.secvisor.workload,
            "writes_after_boot": self.secvisor.writes_after_boot,
            "approve": self.approval.json(),
            "missed": missed(&targets),
            "ok": self.ok(),
        })
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        let mut limit = |what, limit, measured: Option<f64>| {
            targets.extend(measured.map(|measured| Target { what, limit, measured }));
        };
        let ratio = |name| {
            let (native, secvisor) = (self.native.operation(name)?, self.secvisor.operation(name)?);
            Some(secvisor.instructions / native.instructions)
        };
        let null = self.secvisor.operation("getppid");
        limit("exits of a null system call", 2.0 + ROUNDING, null.map(|null| null.exits));
        limit("instructions of SecVisor per switch", 150.0, self.switch_instructions());
        limit("null system call, ratio", 2.0, ratio("getppid"));
        limit("fork and exec, ratio", 1.05, ratio("fork-exec"));
        if !self.approval.with_modules {
            return targets;
        }
        let [native, secvisor] = self.boot();
        limit("boot to the first program, ratio", 1.15, Some(secvisor as f64 / native as f64));
        // In xAPIC mode, which is what QEMU has while instructions are counted: the end of the interrupt and the next
        // timer are an exit each; an idle CPU sets the timer more often. In x2APIC mode neither exits.
        let per_tick = |name| {
            let period = self.secvisor.periods.get(name)?;
            Some((period.exits - 2.0 * period.calls as f64).max(0.0) / period.ticks.max(1) as f64)
        };
        limit("exits of a tick of an idle CPU", 4.0, per_tick("idle-second"));
        limit("exits of a tick in the kernel", 2.0 + ROUNDING, per_tick("kernel-ticks"));
        limit("exits of a tick in user mode", 4.0 + ROUNDING, per_tick("user-ticks"));
        let cpuid = self.secvisor.workload.get("cpuid").copied().unwrap_or(0.0);
        limit("CPUID exits of the workload", 0.0, Some(cpuid));
        limit("writes to approved frames after boot", 0.0, self.secvisor.writes_after_boot.map(|n| n as f64));
        targets.extend(self.approval.targets());
        targets
    }

    fn operations(&self) -> impl Iterator<Item = (&Operation, &Operation)> {
        self.native.operations.iter().filter_map(|native| Some((native, self.secvisor.operation(&native.name)?)))
    }

    /// Instructions from the entry of the image (Linux's own, or SecVisor's) to the first program.
    fn boot(&self) -> [u64; 2] {
        [&self.native, &self.secvisor].map(|measured| measured.boot.saturating_sub(self.firmware))
    }

    /// A null system call switches twice.
    fn switch_instructions(&self) -> Option<f64> {
        let (native, secvisor) = (self.native.operation("getppid")?, self.secvisor.operation("getppid")?);
        Some((secvisor.instructions - native.instructions) / 2.0)
    }

    fn flushes_per_switch(&self) -> Option<f64> {
        let null = self.secvisor.operation("getppid")?;
        Some(null.flushes / null.switches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn run(instructions: f64, exits: f64) -> Measured {
        let operation = Operation {
            name: "getppid".to_string(),
            instructions,
            exits,
            switches: exits,
            flushes: 0.1,
            reasons: Default::default(),
        };
        Measured { boot: 1000, operations: vec![operation], ..Default::default() }
    }

    fn outcome(instructions: f64, exits: f64) -> Outcome {
        Outcome {
            release: "6.1".to_string(),
            native: run(330.0, 0.0),
            secvisor: run(instructions, exits),
            firmware: 100,
            approval: Made { file: Default::default(), with_modules: false, time: Duration::ZERO, peak_kib: 0 },
        }
    }

    #[test]
    fn targets_are_limits() {
        assert!(outcome(630.0, 2.0).ok());
        assert!(!outcome(631.0, 2.0).ok());
        assert!(!outcome(600.0, 3.0).ok());
    }

    #[test]
    fn json_has_its_shape() {
        let json = outcome(530.0, 2.0).json();
        assert_eq!(json["ops"]["getppid"]["native"], 330.0);
        assert_eq!(json["ops"]["getppid"]["exits"], 2.0);
        assert_eq!(json["switch_instructions"], 100.0);
        assert_eq!(json["boot"]["secvisor"], 900);
        assert_eq!(json["ok"], true);
    }
}
