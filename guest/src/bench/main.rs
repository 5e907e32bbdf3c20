//! What operations of Linux cost, as the time-stamp counter shows it
//!
//! Runs as the guest's first program. `cargo xtask bench` lets the time-stamp counter count instructions, those of
//! SecVisor included. Each line of the form `bench: {...}` is one result. Environment, from the kernel's command line:
//! `BENCH_BENEATH` if SecVisor can be asked for its counters, `BENCH_ONLY=name` for one operation, `BENCH_SCALING=n` with
//! `BENCH_MILLISECONDS=n` for nothing but what so many CPUs do of what one does in that time. Where it is not the first
//! program it says what was executed up to then, and ends.

mod booted;
mod counters;
#[path = "../status/hypercall.rs"]
mod hypercall;
mod measure;
mod operations;
mod scaling;
mod system;
mod ticks;

use measure::measure;
use std::time::Duration;

fn main() {
    // Before anything else: how long it took to get here.
    let boot = measure::now();
    let beneath = std::env::var_os("BENCH_BENEATH").is_some();
    if std::process::id() != 1 {
        println!("\nbench: {}", booted::report(beneath));
        return;
    }
    system::prepare();
    let only = std::env::var("BENCH_ONLY").ok();
    println!("bench: {{\"boot\":{boot}}}");
    if beneath {
        hypercall::exit_if_not_understood();
    }
    // Linux is still busy with what it put off while booting.
    system::sleep(2);
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    if let (Some(cpus), Some(milliseconds)) = (number("BENCH_SCALING"), number("BENCH_MILLISECONDS")) {
        println!("bench: {}", scaling::measure(cpus as usize, Duration::from_millis(milliseconds), beneath));
        println!("bench: end");
        system::power_off();
    }
    let start = beneath.then(counters::Counters::read);
    for operation in operations::all() {
        if only.as_deref().is_none_or(|only| only == operation.name()) {
            println!("bench: {}", measure(operation, beneath));
        }
    }
    if only.is_none() {
        ticks::all(beneath).iter().for_each(|line| println!("bench: {line}"));
    }
    if let Some(start) = start {
        println!("bench: {{\"workload\":{}}}", counters::Counters::read().since(&start).json());
        let late = hypercall::counter(counters::WRITES_AFTER_BOOT).unwrap_or(u64::MAX);
        println!("bench: {{\"writes_after_boot\":{late}}}");
    }
    println!("bench: end");
    system::power_off();
}
