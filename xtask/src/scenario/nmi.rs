//! An NMI reaches Linux, wherever it hits.

use super::stage::{Setting, Stage, no_violations, said, switched_off};
use crate::guest::Guest;
use crate::machine::Machine;
use anyhow::{Result, ensure};
use std::time::Duration;

/// How many in a row; 6.12 says no more than ten times in five seconds that it got one.
const TIMES: usize = 3;

/// Where they hit: in a loop in user mode, in system calls, in the idle kernel.
const PLACES: [&str; 3] = ["user", "system-calls", "idle"];

/// Every single one is received, and the system goes on.
pub fn reaches_linux(stage: &Stage) -> Result<()> {
    for setting in Setting::BOTH {
        let mut guest = stage.start(setting, &Machine::new("nmi"), stage.initrd()?, SCRIPT)?;
        for place in PLACES {
            guest.wait_for(&format!("nmi: {place}"), Duration::from_secs(120))?;
            for _ in 0..TIMES {
                inject(&mut guest)?;
            }
            guest.say("")?;
        }
        switched_off(&mut guest, Duration::from_secs(120))?;
        let counted = format!("{} in all", TIMES * PLACES.len());
        ensure!(said(&guest, "nmi").last() == Some(&counted.as_str()), "not {counted}; {}", guest.where_to_look());
        no_violations(&guest)?;
        guest.finish()?;
    }
    Ok(())
}

/// Linux knows no reason for it, and says so.
fn inject(guest: &mut Guest) -> Result<()> {
    guest.control().inject_nmi()?;
    guest.wait_for("NMI received for unknown reason", Duration::from_secs(60))?;
    guest.wait_for("Dazed and confused", Duration::from_secs(60))?;
    Ok(())
}

const SCRIPT: &str = r#"
awk 'BEGIN { for (;;) n++ }' &
echo nmi: user
read line
kill $!
dd if=/dev/zero of=/dev/null bs=1 &
echo nmi: system-calls
read line
kill $!
sleep 1
echo nmi: idle
read line
echo "nmi: $(awk '/NMI:/ { print $2 }' /proc/interrupts) in all"
"#;
