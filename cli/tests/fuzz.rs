//! Every fuzz target, briefly: seeds and a few thousand variations of them, the same ones each time
//!
//! `SECVISOR_FUZZ_SECONDS` is how long each target runs; `fuzz/` runs them for longer, and finds more.
use std::time::{Duration, Instant};

#[path = "synthetic/mod.rs"]
mod made_up;
#[path = "../../approval/tests/synthetic/mod.rs"]
mod synthetic;
#[path = "../../fuzz/src/targets.rs"]
mod targets;
#[path = "../../rules/tests/world/mod.rs"]
mod world;

use targets::{Random, TARGETS, mutated};

fn run(name: &str) {
    let target = TARGETS.iter().find(|t| t.name == name).unwrap();
    let seconds = std::env::var("SECVISOR_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(4);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut inputs = (target.seeds)();
    for seed in &inputs {
        (target.run)(seed);
        (target.run)(&seed[..seed.len() / 2]);
    }
    (target.run)(&[]);
    let mut random = Random(0);
    let mut tried = 0;
    while Instant::now() < end {
        let from = random.below(inputs.len());
        let input = mutated(&inputs[from], &mut random);
        let saved = std::panic::catch_unwind(|| (target.run)(&input));
        if saved.is_err() {
            let path = std::env::temp_dir().join(format!("secvisor-fuzz-{name}-{tried}"));
            std::fs::write(&path, &input).unwrap();
            panic!("{name} fails with the {} bytes in {}", input.len(), path.display());
        }
        tried += 1;
        // Some variations of variations.
        if tried % 50 == 0 && inputs.len() < 40 {
            inputs.push(input);
        }
    }
    println!("{name}: {tried} inputs");
    assert!(tried > 0);
}

#[test]
fn approval() {
    run("approval");
}

#[test]
fn bzimage() {
    run("bzimage");
}

#[test]
fn kernel() {
    run("kernel");
}

#[test]
fn kallsyms() {
    run("kallsyms");
}

#[test]
fn module() {
    run("module");
}

#[test]
fn walk() {
    run("walk");
}

#[test]
fn exits() {
    run("exits");
}

/// The kernel of the synthetic approval lies where it was linked.
const SLIDE: u64 = 0;
