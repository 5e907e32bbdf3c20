//! What two CPUs do of what one does, in one run each
//!
//! Counted twice. Where QEMU counts instructions, both CPUs share one clock that counts what either executes: what two do
//! is then twice what the ratio says, and anything one has to wait for the other shows exactly. In time on
//! two cores the emulator has a say, too: it handles every exit of every CPU under one lock of its own.

use super::Options;
use super::result::{Target, missed, target_lines};
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::machine::{Boot, Machine};
use crate::progress::during;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::time::Duration;

const CPUS: u32 = 2;

/// One CPU does at most this part of what two do: two do 1.8 times its work.
const LIMIT: f64 = 1.0 / 1.8;

/// Two for each call, and some for timers.
const EXITS: f64 = 2.01;

/// How the guest's time passes.
#[derive(Clone, Copy, PartialEq)]
enum Clock {
    /// With what both CPUs execute.
    Instructions,
    /// As on the host, where each CPU has a core if one is free.
    Time,
}

impl Clock {
    fn name(self) -> &'static str {
        match self {
            Clock::Instructions => "instructions",
            Clock::Time => "time",
        }
    }

    fn milliseconds(self) -> u32 {
        match self {
            Clock::Instructions => 300,
            Clock::Time => 4000,
        }
    }
}

/// What one run has shown.
struct Measured {
    beneath: bool,
    clock: Clock,
    one: u64,
    all: u64,
    /// How many times the work of one CPU they have done.
    ratio: f64,
    /// Of all CPUs, for each call of one of them.
    exits: f64,
    shootdowns: u64,
    contended: u64,
}

impl Measured {
    fn run(beneath: bool, clock: Clock, boot: &Boot) -> Result<Measured> {
        let mut machine = Machine::new(if beneath { "scaling-secvisor" } else { "scaling-native" });
        machine.cpus = CPUS;
        machine.qemu.count_instructions = clock == Clock::Instructions;
        let said = during(&format!("measuring {}", name(beneath)), || run(&machine, boot))?;
        let count = |key: &str| said[key].as_u64().with_context(|| format!("the workload does not say {key}"));
        let (one, all) = (count("one")?, count("all")?);
        let shared = if machine.qemu.count_instructions { CPUS as f64 } else { 1.0 };
        let ratio = all as f64 / one as f64 * shared;
        let exits = count("exits")? as f64 / all as f64;
        let (shootdowns, contended) = (count("shootdowns")?, count("contended")?);
        Ok(Measured { beneath, clock, one, all, ratio, exits, shootdowns, contended })
    }

    fn line(&self) -> String {
        let Measured { beneath, clock, one, all, ratio, exits, shootdowns, contended } = self;
        let (name, clock) = (name(*beneath), clock.name());
        format!("{name:17} {clock:13} {one:>9} {all:>9} {ratio:>7.2} {exits:>11.3} {shootdowns:>12} {contended:>19}")
    }
}

fn name(beneath: bool) -> &'static str {
    if beneath { "beneath SecVisor" } else { "without SecVisor" }
}

impl From<&Measured> for Value {
    fn from(m: &Measured) -> Value {
        json!({
            "name": name(m.beneath), "clock": m.clock.name(), "one": m.one, "all": m.all, "ratio": m.ratio, "exits_per_call": m.exits,
            "shootdowns": m.shootdowns, "contended": m.contended,
        })
    }
}

/// Measures and shows; tells whether the targets are met.
pub fn bench(options: &Options, kernel: &Kernel) -> Result<bool> {
    let mut all = Vec::new();
    for clock in [Clock::Instructions, Clock::Time] {
        let words = format!(" BENCH_SCALING={CPUS} BENCH_MILLISECONDS={}", clock.milliseconds());
        let (native, secvisor) = options.boots(kernel, &words)?.0;
        for (beneath, boot) in [(false, native), (true, secvisor)] {
            all.push(Measured::run(beneath, clock, &boot)?);
        }
    }
    println!("{}, null system calls", kernel.release);
    println!(
        "                  clock           one CPU    {CPUS} CPUs   ratio  exits/call  shoot-downs  waits for the lock"
    );
    all.iter().for_each(|measured| println!("{}", measured.line()));
    let beneath = || all.iter().filter(|m| m.beneath);
    let counted = beneath().find(|m| m.clock == Clock::Instructions).context("nothing was counted")?;
    let targets = [
        Target { what: "exits per call, either CPU", limit: EXITS, measured: counted.exits },
        Target { what: "one CPU's instructions, of two CPUs'", limit: LIMIT, measured: 1.0 / counted.ratio },
        Target { what: "shoot-downs", limit: 0.0, measured: beneath().map(|m| m.shootdowns).sum::<u64>() as f64 },
        Target { what: "waits for the lock", limit: 0.0, measured: beneath().map(|m| m.contended).sum::<u64>() as f64 },
    ];
    println!("\n{}", target_lines(&targets).trim_end());
    let ok = targets.iter().all(Target::met);
    if options.json {
        let all: Vec<Value> = all.iter().map(Value::from).collect();
        println!("{}", json!({ "kernel": kernel.release, "measured": all, "missed": missed(&targets), "ok": ok }));
    }
    Ok(ok)
}

fn run(machine: &Machine, boot: &Boot) -> Result<Value> {
    let mut guest: Guest = machine.start(boot)?;
    let line = guest.wait_for("{\"scaling\":", Duration::from_secs(600))?;
    let said = line.split_once("bench: ").context("no result")?.1;
    let value: Value = serde_json::from_str(said)?;
    guest.wait_end(Duration::from_secs(60))?;
    guest.finish()?;
    Ok(value["scaling"].clone())
}
