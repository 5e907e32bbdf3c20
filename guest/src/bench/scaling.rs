//! What several CPUs do of what one does: null system calls, in one run

use crate::counters::Counters;
use crate::hypercall::counter;
use secvisor_guest::affinity::stay_on;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Index of the counter of shoot-downs that waited for another CPU.
const SHOOTDOWNS: u64 = 32;
/// Index of the counter of waits for SecVisor's lock.
const CONTENDED: u64 = 33;

/// System calls that the first so many CPUs make in the same time; then on one CPU again. One object.
pub fn measure(cpus: usize, time: Duration, beneath: bool) -> String {
    let ask = |index| if beneath { counter(index).unwrap_or(0) } else { 0 };
    let exits = || if beneath { Counters::read().total() } else { 0 };
    let _warm = calls(cpus, time / 4);
    let before = calls(1, time);
    let (shootdowns, contended, earlier) = (ask(SHOOTDOWNS), ask(CONTENDED), exits());
    let all = calls(cpus, time);
    let exits = exits() - earlier;
    let (shootdowns, contended) = (ask(SHOOTDOWNS) - shootdowns, ask(CONTENDED) - contended);
    let after = calls(1, time);
    let one = (before + after) / 2;
    format!(
        "{{\"scaling\":{{\"cpus\":{cpus},\"one\":{one},\"all\":{all},\"exits\":{exits},\"shootdowns\":{shootdowns},\
         \"contended\":{contended}}}}}"
    )
}

/// Calls that are made within some time, each CPU in a loop of its own.
fn calls(cpus: usize, time: Duration) -> u64 {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let loops: Vec<_> = (0..cpus)
            .map(|cpu| {
                scope.spawn({
                    let over = &over;
                    move || call(cpu, over)
                })
            })
            .collect();
        thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        loops.into_iter().map(|l| l.join().expect("a loop that does not panic")).sum()
    })
}

fn call(cpu: usize, over: &AtomicBool) -> u64 {
    stay_on(cpu).unwrap_or_else(|error| panic!("no CPU {cpu}: {error}"));
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        for _ in 0..100 {
            // SAFETY: has no effect.
            unsafe { libc::syscall(libc::SYS_getppid) };
        }
        count += 100;
    }
    count
}
