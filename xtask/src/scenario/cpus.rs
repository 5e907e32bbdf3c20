//! Many CPUs: all come up, go and come back, and patch the kernel while others execute it.

use super::stage::{QUIET, Setting, Stage, no_violations, said, switched_off};
use crate::machine::Machine;
use anyhow::{Result, ensure};
use std::time::Duration;

const CPUS: u32 = 4;

/// What Linux says when a CPU hangs or the patching went wrong.
const TROUBLE: [&str; 5] = ["lockup", "rcu_sched", "rcu_preempt", "BUG:", "Call Trace"];

/// Every CPU executes, goes offline and comes back, as without SecVisor.
pub fn come_and_go(stage: &Stage) -> Result<()> {
    either_way(stage, COME_AND_GO, false)
}

/// The same with the APICs in x2APIC mode.
pub fn x2apic(stage: &Stage) -> Result<()> {
    either_way(stage, &[X2APIC, COME_AND_GO].concat(), true)
}

/// Without SecVisor and beneath it. Without it once more if it fails: QEMU may lose a CPU's timer (docs/emulators.md).
fn either_way(stage: &Stage, lines: &str, x2apic: bool) -> Result<()> {
    let lines = lines.replace("CPUS", &CPUS.to_string());
    let told = |setting| {
        let mut machine = machine("cpus");
        machine.qemu.x2apic = x2apic;
        tell(stage, setting, machine, &lines, Duration::from_secs(400))
    };
    told(Setting::Native).or_else(|error| {
        eprintln!("  without SecVisor: {error:#}; once more");
        told(Setting::Native)
    })?;
    told(Setting::Beneath)
}

/// Static keys, tracepoints, tracers and modules are switched on some CPUs while all are busy in the kernel.
pub fn storm(stage: &Stage, seconds: u32) -> Result<()> {
    let lines = [QUIET, STORM].concat().replace("SECONDS", &seconds.to_string());
    tell(stage, Setting::Beneath, machine("storm"), &lines, Duration::from_secs(200 + 4 * seconds as u64))
}

/// CPU 0 goes in and out of the kernel while CPU 1 switches between programs: what `ignne` takes out of QEMU.
pub fn switch(stage: &Stage) -> Result<()> {
    // Each on a core of a host that has two: the race needs both at once.
    let mut machine = machine("switch");
    machine.cpus = 2;
    tell(stage, Setting::Beneath, machine, SWITCH, Duration::from_secs(400))
}

/// The guest reboots twice, then goes off; beneath SecVisor with one CPU, two and four.
pub fn reboots(stage: &Stage) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(200);
    let machines = [(Setting::Native, CPUS), (Setting::Beneath, 1), (Setting::Beneath, 2), (Setting::Beneath, CPUS)];
    for (setting, cpus) in machines {
        let mut machine = machine("cpus");
        machine.cpus = cpus;
        machine.qemu.reboots = true;
        let mut guest = stage.start(setting, &machine, stage.initrd()?, REBOOT)?;
        for answer in ["again", "again", "off"] {
            guest.wait_for(&format!("cpus: {cpus} here"), LIMIT)?;
            guest.say(answer)?;
        }
        switched_off(&mut guest, LIMIT)?;
        let launches = guest.report()?.iter().filter(|line| **line == format!("secvisor: CPUs: {cpus}")).count();
        let wanted = if setting == Setting::Beneath { 3 } else { 0 };
        ensure!(launches == wanted, "{launches} launches with {cpus} CPUs; {}", guest.where_to_look());
        no_violations(&guest)?;
        guest.finish()?;
    }
    Ok(())
}

/// A machine whose guest speaks by this word.
fn machine(word: &str) -> Machine {
    let mut machine = Machine::new(word);
    machine.cpus = CPUS;
    machine
}

fn tell(stage: &Stage, setting: Setting, machine: Machine, lines: &str, limit: Duration) -> Result<()> {
    let mut guest = stage.start(setting, &machine, stage.initrd()?, lines)?;
    switched_off(&mut guest, limit)?;
    let steps = said(&guest, &machine.name);
    println!("  {setting:?}: {}", steps.join("; "));
    let wrong = steps.iter().any(|step| step.starts_with("wrong"));
    ensure!(!wrong && steps.last() == Some(&"done"), "{steps:?}; {}", guest.where_to_look());
    let trouble = guest.console().iter().find(|line| TROUBLE.iter().any(|t| line.contains(t)));
    ensure!(trouble.is_none(), "Linux says {trouble:?}; {}", guest.where_to_look());
    no_violations(&guest)?;
    guest.finish()
}

const REBOOT: &str = r#"
echo "cpus: $(nproc) here"
read answer
[ "$answer" = off ] || reboot -f
"#;

const X2APIC: &str = r#"
dmesg | grep -q 'x2apic enabled' || echo "cpus: wrong: xAPIC mode"
"#;

const COME_AND_GO: &str = r#"
wrong() { echo "cpus: wrong: $*"; }
[ "$(nproc)" = CPUS ] || wrong "$(nproc) CPUs"
for cpu in $(seq 0 $((CPUS - 1))); do
  taskset -c $cpu sh -c 'for i in $(seq 20); do cat /proc/uptime > /dev/null; done' || wrong "CPU $cpu does not execute"
done
echo "cpus: all execute"
for round in 1 2 3; do
  for cpu in 1 2 3; do
    echo 0 > /sys/devices/system/cpu/cpu$cpu/online || wrong "CPU $cpu stays online"
  done
  [ "$(nproc)" = 1 ] || wrong "$(nproc) CPUs are left"
  for cpu in 3 1 2; do
    echo 1 > /sys/devices/system/cpu/cpu$cpu/online || wrong "CPU $cpu stays offline"
    taskset -c $cpu cat /proc/uptime > /dev/null || wrong "CPU $cpu does not execute"
  done
done
[ "$(nproc)" = CPUS ] || wrong "$(nproc) CPUs in the end"
echo cpus: went and came back
echo cpus: done
"#;

const SWITCH: &str = r#"
for pair in 1 2; do (taskset -c 1 yes | taskset -c 1 cat > /dev/null) & done
taskset -c 0 dd if=/dev/zero of=/dev/null bs=1 count=600000 2> /dev/null && echo switch: done
"#;

const STORM: &str = r#"
wrong() { echo "storm: wrong: $*"; }
mount -t tracefs tracing /sys/kernel/tracing
mount -t debugfs debug /sys/kernel/debug
events=/sys/kernel/tracing/events
end=$(($(cut -d . -f 1 /proc/uptime) + SECONDS))
on() { [ "$(cut -d . -f 1 /proc/uptime)" -lt $end ]; }
count() { echo "storm: $1 $2 times"; }
( n=0; while on; do
    echo 1 > /proc/sys/kernel/sched_schedstats || wrong schedstats; echo 0 > /proc/sys/kernel/sched_schedstats
    n=$((n + 1)); done; count "static keys switched" $n ) &
( n=0; while on; do
    for e in sched/sched_switch syscalls irq timer; do
      echo 1 > $events/$e/enable || wrong $e; echo 0 > $events/$e/enable
    done; n=$((n + 1)); done; count "tracepoints switched" $n ) &
echo 'vfs_* do_sys_*' > /sys/kernel/tracing/set_ftrace_filter || wrong filter
( n=0; while on; do
    for tracer in function function_graph nop; do
      echo $tracer > /sys/kernel/tracing/current_tracer || wrong $tracer
    done; n=$((n + 1)); done; count "tracers switched" $n ) &
( n=0; while on; do
    insmod /modules/witness.ko || wrong insmod; rmmod witness || wrong rmmod
    n=$((n + 1)); done; count "module loaded" $n ) &
for cpu in 0 1 2 3; do
  ( n=0; while on; do taskset -c $cpu cat /proc/self/stat > /dev/null; n=$((n + 1)); done; count "CPU $cpu forked" $n ) &
done
wait
echo storm: done
"#;
