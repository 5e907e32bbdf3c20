//! What SecVisor keeps for itself: how much it is, and that nobody else gets at it.

use super::stage::{QUIET, Setting, Stage, said, switched_off};
use crate::guest::Guest;
use crate::machine::Machine;
use crate::play::violations;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::time::Duration;

/// The most SecVisor may take of a machine with four gigabytes, the approval of all modules included.
const LIMIT_KIB: u64 = 64 << 10;

/// As much as the limit is about; some of it lies above 4 GiB, so that Linux takes what is below for memory, too.
const MEMORY_MIB: u32 = 4096;

/// Measures it.
pub fn footprint(stage: &Stage) -> Result<()> {
    let mut machine = Machine::new("footprint");
    machine.memory_mib = MEMORY_MIB;
    let mut guest = stage.start(Setting::Beneath, &machine, stage.initrd()?, "")?;
    let line = guest.wait_for_report("hypervisor memory ", Duration::from_secs(120))?;
    let kib = line.split("hypervisor memory ").nth(1).and_then(|rest| rest.strip_suffix(" KiB"));
    let kib: u64 = kib.with_context(|| format!("no figure in \"{line}\""))?.parse()?;
    println!("  {}: {kib} KiB of 4 GiB", stage.kernel.release);
    ensure!(kib <= LIMIT_KIB, "SecVisor takes {kib} KiB of 4 GiB, more than {LIMIT_KIB}");
    guest.finish()
}

/// How much of it is reached for, and where: a page of the approval, which SecVisor never changes.
const REACHED: u64 = 4096;

/// Reads and writes it through `/dev/mem`, by the kernel's hand and by a mapping of the process's own.
pub fn absent(stage: &Stage) -> Result<()> {
    let mut machine = Machine::new("absent");
    machine.memory_mib = MEMORY_MIB;
    let lines = [QUIET, REACH].concat();
    let mut guest = stage.start(Setting::Beneath, &machine, stage.initrd()?, &lines)?;
    let line = guest.wait_for("reach: address ", Duration::from_secs(120))?;
    let address = line.split("0x").nth(1).context("no address")?;
    let address = u64::from_str_radix(address, 16)?;
    let content = |guest: &mut Guest| {
        let file = stage.file("saved");
        guest.control().save_memory(address, REACHED, &file)?;
        Ok::<_, anyhow::Error>(fs::read(file)?)
    };
    let before = content(&mut guest)?;
    guest.say("")?;
    guest.wait_for("reach: done", Duration::from_secs(120))?;
    let after = content(&mut guest)?;
    guest.say("")?;
    switched_off(&mut guest, Duration::from_secs(120))?;
    let place = guest.where_to_look();
    ensure!(before.iter().any(|&byte| byte != u8::MAX), "nothing there to be seen; {place}");
    ensure!(before == after, "it was changed; {place}");
    let values = said(&guest, "reads");
    let ones = |value: &&str| value.trim_start_matches("0x").chars().all(|digit| "fF".contains(digit));
    ensure!(!said(&guest, "reach").contains(&"not written"), "a write failed visibly; {place}");
    ensure!(values.len() == 4 && values.iter().all(ones), "{values:?} was read; {place}");
    let reported = violations(&guest)?;
    let gpa = format!(" gpa={address:#x} ");
    let ours = |line: &String| line.contains(" rule=hypervisor-memory ") && line.contains(&gpa);
    ensure!(!reported.is_empty() && reported.iter().all(ours), "reported: {reported:?}; {place}");
    guest.finish()
}

/// SecVisor's memory begins where Linux's below 4 GiB ends.
const REACH: &str = r#"
last=$(grep 'System RAM' /proc/iomem | cut -d ' ' -f 1 | grep -v '^[0-9a-f]\{9\}' | tail -n 1 | cut -d - -f 2)
page=$(((0x$last + 1) / 4096 + 256))
address=$(printf 0x%x $((page * 4096)))
echo "reach: address $address"
read go
content() { dd if=/dev/mem bs=4096 skip=$page count=1 2> /dev/null | hexdump -v -e '64/1 "%02x" "\n"' | sort -u; }
echo "reads: $(content)"
echo attack | dd of=/dev/mem bs=4096 seek=$page count=1 conv=notrunc || echo reach: not written
echo "reads: $(content)"
echo "reads: $(devmem $address 64)"
devmem $address 64 0x1234567890abcdef || echo reach: not written
echo "reads: $(devmem $address 64)"
echo "reach: done"
read go
"#;
