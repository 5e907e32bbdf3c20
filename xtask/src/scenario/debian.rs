//! A stock Debian from its disk: it boots, works, has a package installed, reboots and goes off, as without SecVisor

use super::stage::{no_violations, said, switched_off};
use crate::debian::machine::{Debian, SILENCE, enter, free_port};
use crate::debian::{Release, disk::Disk};
use crate::guest::Guest;
use crate::machine::Machine;
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;

/// What the system must say of itself, whether or not SecVisor is beneath it.
const NEEDED: [&str; 9] = [
    "state: running",
    "ping: works",
    "disk: ext2/ext3",
    "sandbox: dynamic user",
    "cron: ran",
    "ssh: root active",
    "user: somebody /home/somebody",
    "installed: install ok installed",
    "wireguard: 51820 1",
];

/// What may be said beneath SecVisor only.
const EXPECTED: [&str; 1] = [
    // QEMU has no performance counters. Linux takes that for an error unless it is told that it runs in a machine that is
    // emulated, which SecVisor hides.
    "error: Failed to access perfctr msr",
];

/// The same story natively and beneath, by GRUB from the disk, on a machine with so many CPUs.
pub fn lives(release: Release, cpus: u32) -> Result<()> {
    let native = run(&Debian::native(Disk::obtain(release)?)?, cpus)?;
    let beneath = run(&Debian::beneath(Disk::obtain(release)?)?, cpus)?;
    let before = said(&native, "story");
    let mut now = said(&beneath, "story");
    now.retain(|line| !EXPECTED.iter().any(|expected| line.starts_with(expected)));
    for needed in NEEDED {
        ensure!(before.contains(&needed), "not even without SecVisor \"{needed}\"; {}", native.where_to_look());
    }
    let differs = before.iter().zip(&now).find(|(before, now)| before != now);
    ensure!(differs.is_none() && before.len() == now.len(), "{differs:?} differ; {}", beneath.where_to_look());
    no_violations(&beneath)?;
    native.finish()?;
    beneath.finish()
}

fn run(debian: &Debian, cpus: u32) -> Result<Guest> {
    let port = free_port()?;
    let mut machine = Machine::new("lives");
    machine.cpus = cpus;
    let mut guest = debian.start(&machine, port)?;
    tell(&mut guest, "install")?;
    let greeting = greeting(port).with_context(|| format!("sshd does not answer; {}", guest.where_to_look()))?;
    ensure!(greeting.starts_with("SSH-2.0-OpenSSH"), "sshd says \"{greeting}\"; {}", guest.where_to_look());
    guest.say("systemctl reboot")?;
    tell(&mut guest, "check")?;
    guest.say("systemctl poweroff")?;
    switched_off(&mut guest, SILENCE)?;
    Ok(guest)
}

/// Lets the guest tell its part of the story.
fn tell(guest: &mut Guest, part: &str) -> Result<()> {
    enter(guest, &format!("sh story.sh {part}"))?;
    guest.wait_for("story: end", SILENCE)?;
    Ok(())
}

/// What sshd says to the host when it connects.
fn greeting(port: u16) -> Result<String> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(SILENCE))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim_end().to_string())
}
