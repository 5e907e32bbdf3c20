//! Tries everything an adversary can do, against the real rules on small machines
//!
//! `docs/model.md` says what is covered and what is not.
mod adversary;
mod bytes;
mod chooser;
mod machine;
mod oracle;
mod search;
mod state;
mod switch;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use machine::Options;
use search::explore;
use serde_json::{Map, Value, json};
use switch::Switch;
use world::World;

/// How to explore.
#[derive(Parser)]
struct Arguments {
    /// End with one JSON object on a line of its own
    #[arg(long)]
    json: bool,
    /// Only what takes less than a minute: not every machine as a whole
    #[arg(long)]
    quick: bool,
    /// Number of CPUs
    #[arg(long, default_value_t = 1)]
    cpus: usize,
    /// Leave out only this, and show the whole counterexample
    #[arg(long)]
    without: Option<String>,
    /// Only this machine
    #[arg(long)]
    world: Option<String>,
    /// Most states of a machine
    #[arg(long, default_value_t = 200_000_000)]
    most: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut worlds = vec![World::views(), World::kernel(), World::module(), World::modules(), World::label()];
    worlds.retain(|w| arguments.world.as_ref().is_none_or(|name| w.name == name));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let start = Instant::now();
    if let Some(name) = &arguments.without {
        let Some(switch) = switch::ALL.into_iter().find(|s| s.name() == *name) else {
            eprintln!("there is no {name}");
            return ExitCode::FAILURE;
        };
        let options = Options { cpus: arguments.cpus, left_out: Some(switch) };
        for world in &worlds {
            let outcome = explore(world, options, threads, arguments.most);
            println!("{}: {} states, complete {}", world.name, outcome.states, outcome.complete);
            if let Some((steps, wrong)) = outcome.found {
                steps.iter().enumerate().for_each(|(i, s)| println!("{:3} {s}", i + 1));
                println!("    {wrong}");
                return ExitCode::SUCCESS;
            }
        }
        return ExitCode::FAILURE;
    }
    let (mut states, mut complete, mut violations) = (0, true, 0);
    for world in &worlds {
        let options = Options { cpus: arguments.cpus, left_out: None };
        let outcome = explore(world, options, threads, arguments.most);
        println!(
            "{}: {} states, {} steps deep, complete {} {:?}",
            world.name,
            outcome.states,
            outcome.depth,
            outcome.complete,
            start.elapsed()
        );
        states += outcome.states;
        complete &= outcome.complete;
        if let Some((steps, wrong)) = outcome.found {
            violations += 1;
            steps.iter().enumerate().for_each(|(i, s)| println!("{:3} {s}", i + 1));
            println!("    {wrong}");
        }
    }
    let mut necessary = Map::new();
    let mut needed = true;
    for switch in switch::ALL {
        let found = worlds.iter().find_map(|world| {
            explore(world, Options { cpus: arguments.cpus, left_out: Some(switch) }, threads, 100_000).found
        });
        match found {
            Some((steps, wrong)) => {
                println!("without {}: {wrong} after {} steps: {}", switch.name(), steps.len(), steps.join(" | "));
                necessary.insert(switch.name(), Value::from(steps.join("; ") + ": " + wrong));
            }
            None => {
                println!("without {}: NO COUNTEREXAMPLE", switch.name());
                needed = false;
            }
        }
        println!("{:?}", start.elapsed());
    }
    let ok = complete && violations == 0 && needed;
    if arguments.json {
        println!(
            "{}",
            json!({"states": states, "complete": complete, "violations": violations, "necessary": necessary, "ok": ok})
        );
    }
    let _ = Switch::QuietDevices;
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
