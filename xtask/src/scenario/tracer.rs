//! The function tracer, the graph tracer, the stack tracer and kprobes at function entries: Linux makes code of its own
//! for each.

use super::stage::{QUIET, Setting, Stage, no_violations, said};
use crate::machine::Machine;
use anyhow::{Result, ensure};
use std::time::Duration;

/// What is traced beneath SecVisor is what is traced without it, and nothing is reported.
pub fn traces(stage: &Stage, cpus: u32) -> Result<()> {
    let lines = [QUIET, SCRIPT].concat();
    for setting in Setting::BOTH {
        let mut machine = Machine::new(&format!("tracer-{cpus}"));
        machine.cpus = cpus;
        let guest = stage.run(setting, &machine, stage.initrd()?, &lines, Duration::from_secs(400))?;
        let steps = said(&guest, "tracer");
        println!("  {setting:?}: {}", steps.join("; "));
        let wrong = steps.iter().any(|step| step.starts_with("wrong"));
        ensure!(!wrong && steps.last() == Some(&"done"), "{steps:?}; {}", guest.where_to_look());
        no_violations(&guest)?;
        guest.finish()?;
    }
    Ok(())
}

const SCRIPT: &str = r#"
wrong() { echo "tracer: wrong: $*"; }
say() { echo "tracer: $1 at $(cut -d ' ' -f 1 /proc/uptime)"; }
mount -t tracefs tracing /sys/kernel/tracing
cd /sys/kernel/tracing
insmod /modules/witness.ko
# The buffer is not large enough for more.
read_file() { echo 1 > tracing_on; cat /proc/self/stat > /dev/null; echo 0 > tracing_on; }
traced() { grep -q "$1" trace || wrong "no $1 by $(cat current_tracer)"; echo > trace; }
# Some functions, again and again.
echo 'vfs_*' > set_ftrace_filter
for i in $(seq 10); do
  echo function > current_tracer || wrong function
  read_file; traced vfs_read
  echo nop > current_tracer
  read_file; grep -q vfs_read trace && wrong "traced while it is off"
done
say "some functions"
# Two at a time: entries call both through a list.
echo 'p:probe vfs_read' > kprobe_events || wrong kprobe
echo 1 > events/kprobes/enable || wrong "no probe"
read_file; grep -q 'probe: (vfs_read' trace || wrong "the probe sees nothing"; echo > trace
echo function > current_tracer
read_file; grep -q 'probe: (vfs_read' trace || wrong "the probe sees nothing beside the tracer"; traced vfs_open
echo 0 > events/kprobes/enable
read_file; traced vfs_read
echo > kprobe_events
echo nop > current_tracer
say probes
echo > set_ftrace_filter
for tracer in function function_graph; do
  echo $tracer > current_tracer || wrong $tracer
  read_file; traced vfs_read
  lsmod > /dev/null; rmmod witness || wrong rmmod; insmod /modules/witness.ko || wrong insmod
  echo nop > current_tracer
  say "all functions by $tracer"
done
echo 1 > /proc/sys/kernel/stack_tracer_enabled || wrong "stack tracer"
read_file
[ "$(cat stack_max_size)" -gt 100 ] || wrong "no stack was measured"
echo 0 > /proc/sys/kernel/stack_tracer_enabled
say stack
echo tracer: done
"#;
