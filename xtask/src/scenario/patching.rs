//! Linux patches itself at run time: static keys, static calls, tracepoints. All of that is approved.

use super::stage::{QUIET, Setting, Stage, no_violations, said};
use crate::machine::Machine;
use anyhow::{Result, ensure};
use std::time::Duration;

/// What Linux offers for switching code, again and again.
pub fn switches(stage: &Stage) -> Result<()> {
    let lines = [QUIET, SCRIPT].concat();
    let guest =
        stage.run(Setting::Beneath, &Machine::new("patching"), stage.initrd()?, &lines, Duration::from_secs(300))?;
    let steps = said(&guest, "patching");
    for step in &steps {
        println!("  {step}");
    }
    let wrong = steps.iter().any(|step| step.starts_with("wrong"));
    ensure!(!wrong && steps.last() == Some(&"done"), "{steps:?}; {}", guest.where_to_look());
    no_violations(&guest)?;
    guest.finish()
}

const SCRIPT: &str = r#"
wrong() { echo "patching: wrong: $*"; }
say() { echo "patching: $1 at $(cut -d ' ' -f 1 /proc/uptime)"; }
mount -t tracefs tracing /sys/kernel/tracing
mount -t debugfs debug /sys/kernel/debug
trace=/sys/kernel/tracing
cd /proc/sys/kernel
for i in $(seq 200); do echo 1 > sched_schedstats; echo 0 > sched_schedstats; done
say schedstats
for i in $(seq 20); do
  for key in task_delayacct bpf_stats_enabled; do echo 1 > $key || wrong $key; echo 0 > $key; done
  for key in vm/numa_stat; do echo 0 > ../$key || wrong $key; echo 1 > ../$key; done
  echo 32768 > ../net/core/rps_sock_flow_entries || wrong rps; echo 0 > ../net/core/rps_sock_flow_entries
done
say "other keys"
if [ -e /sys/kernel/debug/sched/preempt ]; then
  for i in 1 2; do
    for mode in none voluntary full; do echo $mode > /sys/kernel/debug/sched/preempt || wrong $mode; done
  done
  echo voluntary > /sys/kernel/debug/sched/preempt
fi
say "preemption"
for i in $(seq 20); do
  for e in power/cpu_idle sched/sched_switch syscalls irq timer; do
    echo 1 > $trace/events/$e/enable || wrong $e
    echo 0 > $trace/events/$e/enable
  done
done
[ "$(grep -c . $trace/trace)" -gt 100 ] || wrong nothing was traced
say tracepoints
for i in 1 2 3; do
  echo 1 > $trace/events/enable || wrong all events
  ls / > /dev/null
  echo 0 > $trace/events/enable
  say "all tracepoints"
done
for i in 1 2 3; do
  echo 'file drivers/* +p' > /proc/dynamic_debug/control || wrong dynamic debug
  echo 'file drivers/* -p' > /proc/dynamic_debug/control || wrong dynamic debug
done
say "dynamic debug"
if [ -e /sys/module/kfence ]; then
  echo 10 > /sys/module/kfence/parameters/sample_interval || wrong kfence
  sleep 2
  echo 0 > /sys/module/kfence/parameters/sample_interval
  say kfence
fi
for clock in $(cat /sys/devices/system/clocksource/clocksource0/available_clocksource); do
  echo $clock > /sys/devices/system/clocksource/clocksource0/current_clocksource || wrong $clock
  sleep 0.1
done
say "clock sources"
# The program's entry: in Debian's static busybox the file is mapped at 4 MiB.
entry=$(($(hexdump -s 24 -n 4 -e '1/4 "%u"' /bin/busybox) - 0x400000))
echo "p:entry /bin/busybox:$(printf 0x%x $entry)" > $trace/uprobe_events || wrong uprobe
echo > $trace/trace
echo 1 > $trace/events/uprobes/enable
for i in $(seq 10); do busybox true; done
echo 0 > $trace/events/uprobes/enable
[ "$(grep -c entry: $trace/trace)" -ge 10 ] || wrong "uprobe hit $(grep -c entry: $trace/trace) times"
echo > $trace/uprobe_events
say "user probes"
mkdir /tmp/cgroup; mount -t cgroup2 cgroup /tmp/cgroup
for controller in $(cat /tmp/cgroup/cgroup.controllers); do echo +$controller > /tmp/cgroup/cgroup.subtree_control; done
mkdir /tmp/cgroup/one
echo '5000 10000' > /tmp/cgroup/one/cpu.max
sh -c 'echo $$ > /tmp/cgroup/one/cgroup.procs; head -c 300000 /dev/zero | sha256sum' > /dev/null
rmdir /tmp/cgroup/one
say cgroups
echo patching: done
"#;
