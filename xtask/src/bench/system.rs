//! What the boot of a whole Debian costs, in instructions
//!
//! From the entry of the image, Linux's own or SecVisor's, until systemd says that the system runs; without GRUB, whose
//! reading of a larger file would count, too.

use super::result::{Target, missed, target_lines};
use super::{counting, firmware};
use crate::debian::Release;
use crate::debian::disk::Disk;
use crate::debian::machine::{Debian, SILENCE, enter, free_port};
use crate::play::violations;
use crate::progress::during;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// The most that Debian's boot may cost, against the same without SecVisor.
const LIMIT: f64 = 1.25;

/// Measures and shows; tells whether the target is met.
pub fn bench(release: Release, json: bool) -> Result<bool> {
    let native = Debian::native(Disk::obtain(release)?)?;
    let native = during("booting Debian without SecVisor", || run(&native, ""))?;
    let beneath = Debian::beneath(Disk::obtain(release)?)?;
    let beneath = during("booting Debian beneath SecVisor", || run(&beneath, "BENCH_BENEATH=1 "))?;
    let firmware = firmware::instructions()?;
    let executed = |run: &Value| -> Result<u64> {
        Ok(run["executed"].as_u64().context("the guest gave no number")?.saturating_sub(firmware))
    };
    let (without, with) = (executed(&native)?, executed(&beneath)?);
    let ratio = with as f64 / without as f64;
    println!("{}, one CPU; instructions until the system runs\n", release.name());
    println!("without {without:>16}\nbeneath {with:>16}\nratio   {ratio:>16.3}");
    println!("exits   {}\n", beneath["counters"]["reasons"]);
    let targets = [Target { what: "boot of Debian, ratio", limit: LIMIT, measured: ratio }];
    println!("{}", target_lines(&targets).trim_end());
    let ok = targets.iter().all(Target::met);
    if json {
        println!(
            "{}",
            json!({
                "system": release.name(), "native": without, "secvisor": with, "ratio": ratio,
                "counters": beneath["counters"], "missed": missed(&targets), "ok": ok,
            })
        );
    }
    Ok(ok)
}

fn run(debian: &Debian, environment: &str) -> Result<Value> {
    let machine = debian.configured(&counting("boot"), free_port()?)?;
    let mut guest = machine.start(&debian.direct()?)?;
    enter(&mut guest, &format!("echo; echo state: $(systemctl is-system-running --wait); {environment}./bench"))?;
    let line = guest.wait_for("bench: {", SILENCE)?;
    let state = guest.console().iter().rfind(|line| line.starts_with("state: "));
    let running = state.is_some_and(|state| state == "state: running");
    ensure!(running, "the system does not run: {state:?}; {}", guest.where_to_look());
    let violations = violations(&guest)?;
    ensure!(violations.is_empty(), "{violations:?}; {}", guest.where_to_look());
    guest.finish()?;
    Ok(serde_json::from_str(line.split_once("bench: ").context("no result")?.1)?)
}
