//! What two CPUs do of what one does, in one run each

use super::Options;
use super::result::{Target, missed, target_lines};
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::machine::{Boot, Machine};
use crate::progress::during;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::time::Duration;

/// One CPU does at most this part of what two do, on a host with two cores that are free: two do 1.8 times the work.
const LIMIT: f64 = 0.556;

const CPUS: u32 = 2;

/// Measures and shows; tells whether the target is met.
pub fn bench(options: &Options, kernel: &Kernel) -> Result<bool> {
    let (native, beneath) = options.boots(kernel, &format!(" BENCH_SCALING={CPUS}"))?.0;
    let native = during("measuring without SecVisor", || run("scaling-native", &native))?;
    let beneath = during("measuring beneath SecVisor", || run("scaling-secvisor", &beneath))?;
    let ratio = |v: &Value| v["all"].as_f64().unwrap_or(0.0) / v["one"].as_f64().unwrap_or(f64::INFINITY);
    println!("{}, null system calls in 4 s", kernel.release);
    println!("                    one CPU   {CPUS} CPUs   ratio   shoot-downs   waits for the lock");
    for (name, v) in [("without SecVisor", &native), ("beneath SecVisor", &beneath)] {
        let count = |key: &str| v[key].as_u64().unwrap_or(0);
        println!(
            "{name:16} {:>10} {:>8} {:>7.2} {:>13} {:>20}",
            count("one"),
            count("all"),
            ratio(v),
            count("shootdowns"),
            count("contended")
        );
    }
    let target = Target {
        what: "one CPU's work, of two CPUs', at most 1/1.8",
        limit: 1.0 / LIMIT,
        measured: 1.0 / ratio(&beneath),
    };
    let targets = [target];
    println!("\n{}", target_lines(&targets).trim_end());
    let ok = targets.iter().all(Target::met);
    if options.json {
        println!(
            "{}",
            json!({
                "kernel": kernel.release, "native": native, "secvisor": beneath,
                "ratio": ratio(&beneath), "missed": missed(&targets), "ok": ok,
            })
        );
    }
    Ok(ok)
}

fn run(name: &str, boot: &Boot) -> Result<Value> {
    let mut machine = Machine::new(name);
    machine.cpus = CPUS;
    let mut guest: Guest = machine.start(boot)?;
    let line = guest.wait_for("{\"scaling\":", Duration::from_secs(300))?;
    let said = line.split_once("bench: ").context("no result")?.1;
    let value: Value = serde_json::from_str(said)?;
    guest.wait_end(Duration::from_secs(60))?;
    guest.finish()?;
    Ok(value["scaling"].clone())
}
