//! What cannot be started is refused by one clear line before anything of the guest runs.

use super::stage::{Setting, Stage};
use crate::machine::{Boot, Machine};
use anyhow::{Context, Result, ensure};
use secvisor_approval::wire::GZIP;
use std::fs;
use std::time::Duration;

/// All that can be wrong with a start.
pub struct Start {
    machine: Machine,
    approval: Vec<u8>,
    boot: Boot,
}

/// Something wrong, and what the line must say.
pub struct Case {
    /// What is wrong.
    pub name: &'static str,
    cause: &'static str,
    spoil: fn(&mut Start),
}

const fn case(name: &'static str, cause: &'static str, spoil: fn(&mut Start)) -> Case {
    Case { name, cause, spoil }
}

/// Where the format's version is in an approval.
const VERSION_OFFSET: usize = 8;

/// Everything that is tried.
pub const CASES: [Case; 15] = [
    case("approval-truncated", "the approval is truncated", |start| start.approval.truncate(start.approval.len() - 1)),
    case("approval-cut-to-its-first-bytes", "the approval is truncated", |start| start.approval.truncate(20)),
    case("approval-corrupted", "the file is damaged", |start| {
        let middle = start.approval.len() / 2;
        start.approval[middle] ^= 1;
    }),
    case("approval-with-other-magic", "not an approval file", |start| start.approval[0] ^= 1),
    case("approval-compressed", "the approval is compressed, and was not unpacked", |start| {
        start.approval[..2].copy_from_slice(&GZIP);
    }),
    case("approval-of-other-version", "the approval has format version", |start| {
        start.approval[VERSION_OFFSET] ^= 0x40;
    }),
    case("approval-with-trailing-bytes", "the approval has trailing bytes", |start| start.approval.extend([0; 7])),
    case("modules-swapped", "not an approval file", |start| start.modules().reverse()),
    case("initrd-missing", "needs two boot modules, the approval and the initrd; got 1", |start| {
        start.modules().truncate(1);
    }),
    case("no-arguments", "needs two boot modules, the approval and the initrd; got 0", |start| {
        start.modules().clear();
        start.cmdline().clear();
    }),
    case("command-line-too-long", "the command line is too long", |start| start.cmdline().extend(["x"; 3000])),
    case("no-svm", "the processor has no SVM", |start| start.machine.qemu.cpu += ",svm=off"),
    case("no-nested-paging", "the processor has no nested paging", |start| start.machine.qemu.cpu += ",npt=off"),
    case("little-memory", "too little memory", |start| start.machine.memory_mib = 104),
    // What is loaded just fits: in less, QEMU loads it over the firmware's tables.
    case("tiny-memory", "memory", |start| start.machine.memory_mib = 80),
];

impl Start {
    fn modules(&mut self) -> &mut Vec<(std::path::PathBuf, String)> {
        let Boot::Multiboot { modules, .. } = &mut self.boot else { unreachable!("SecVisor is booted by multiboot") };
        modules
    }

    fn cmdline(&mut self) -> &mut String {
        let Boot::Multiboot { cmdline, .. } = &mut self.boot else { unreachable!("SecVisor is booted by multiboot") };
        cmdline
    }
}

/// Boots it, and expects the line on both channels and nothing of Linux.
pub fn refused(stage: &Stage, case: &Case) -> Result<()> {
    let initrd = stage.initrd()?.script("").write(&stage.file("initrd"))?;
    let approval = fs::read(&stage.approval)?;
    let mut start =
        Start { machine: Machine::new(case.name), approval, boot: stage.boot(Setting::Beneath, &initrd, "") };
    let file = stage.file("spoiled");
    start.modules()[0].0 = file.clone();
    (case.spoil)(&mut start);
    fs::write(&file, &start.approval)?;

    const LINE: &str = "secvisor: cannot start: ";
    let mut guest = start.machine.start(&start.boot)?;
    let line = guest.wait_for(LINE, Duration::from_secs(120))?;
    guest.wait_for_report(LINE, Duration::from_secs(30))?;
    // Whatever still happened now would happen after the refusal.
    let more = guest.wait_for("", Duration::from_millis(500));
    ensure!(more.is_err(), "it went on: {more:?}; {}", guest.where_to_look());
    let said: Vec<_> = guest.console().iter().filter(|line| line.contains("secvisor: ")).cloned().collect();
    let place = guest.where_to_look();
    ensure!(said == guest.report()?, "the channels differ; {place}");
    ensure!(said.iter().filter(|line| line.contains(LINE)).count() == 1, "several causes: {said:?}; {place}");
    let cause = line.split_once(LINE).context("a line without a cause")?.1;
    ensure!(cause.contains(case.cause), "\"{cause}\" does not say \"{}\"; {place}", case.cause);
    ensure!(!guest.console().iter().any(|line| line.contains("Linux version")), "Linux ran; {place}");
    guest.finish()
}
