//! Measuring one operation

use crate::counters::Counters;
use crate::operations::Operation;
use std::arch::x86_64::_rdtsc;

/// How often a batch is measured. A few meet a timer tick or other work of Linux; the median does not.
const BATCHES: usize = 31;

/// The time-stamp counter.
pub fn now() -> u64 {
    // SAFETY: Linux lets every program read it.
    unsafe { _rdtsc() }
}

/// What happened in one batch.
struct Batch {
    instructions: u64,
    counters: Counters,
}

/// Measures an operation; one object.
pub fn measure(mut operation: Box<dyn Operation>, beneath: bool) -> String {
    let times = operation.times();
    for _ in 0..3 {
        batch(&mut *operation, false);
    }
    let mut batches: Vec<Batch> = (0..BATCHES).map(|_| batch(&mut *operation, beneath)).collect();
    batches.sort_by_key(|batch| batch.instructions);
    let median = &batches[BATCHES / 2];
    let instructions = median.instructions as f64 / times as f64;
    let counters = if beneath { median.counters.json_per(times) } else { "null".to_string() };
    format!("{{\"op\":\"{}\",\"instructions\":{instructions:.1},\"counters\":{counters}}}", operation.name())
}

fn batch(operation: &mut dyn Operation, beneath: bool) -> Batch {
    operation.before();
    let read = || if beneath { Counters::read() } else { Counters::default() };
    let counters = read();
    let start = now();
    for _ in 0..operation.times() {
        operation.perform();
    }
    let instructions = now() - start;
    let counters = read().since(&counters);
    operation.after();
    Batch { instructions, counters }
}
