//! The model's program: what to explore, and how to show it
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::builder::RangedU64ValueParser;
use secvisor_model::{Switch, World, checks, examine, explore, named, without};
use serde_json::json;

/// Try everything an adversary can do on small machines; then leave out every check, one at a time, and show what that
/// lets happen.
#[derive(Parser)]
#[command(name = "secvisor-model")]
struct Arguments {
    /// End with one JSON object on a line of its own
    #[arg(long)]
    json: bool,
    /// Number of CPUs, 1 or 2
    #[arg(long, value_name = "N", default_value = "1", value_parser = RangedU64ValueParser::<usize>::new().range(1..=2))]
    cpus: usize,
    /// Leave out only this, and show the whole counterexample
    #[arg(long, value_name = "NAME", value_parser = switch)]
    without: Option<Switch>,
    /// Only this machine, and nothing left out unless --without says so
    #[arg(long, value_name = "NAME", value_parser = world)]
    world: Option<String>,
    /// Say what can be left out, and which machines there are
    #[arg(long, conflicts_with_all = ["json", "without", "world"])]
    list: bool,
}

fn switch(name: &str) -> Result<Switch, String> {
    named(name).ok_or_else(|| "there is no such check; --list names them".into())
}

fn world(name: &str) -> Result<String, String> {
    let names: Vec<_> = World::all().iter().map(|w| w.name).collect();
    if names.contains(&name) { Ok(name.into()) } else { Err(format!("the machines are {}", names.join(", "))) }
}

fn main() -> ExitCode {
    match run(&Arguments::parse(), &mut io::stdout()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is as it must be.
fn run(arguments: &Arguments, out: &mut impl Write) -> io::Result<bool> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut worlds = World::all();
    worlds.retain(|w| arguments.world.as_ref().is_none_or(|name| w.name == name));
    let Arguments { json, cpus, list, .. } = *arguments;
    if list {
        for switch in checks(cpus).into_iter().chain([Switch::QuietDevices]) {
            writeln!(out, "{:23} {:10} {}", switch.name(), switch.owner(), switch.what())?;
        }
        for world in worlds {
            writeln!(out, "{:23} {:10} {}", world.name, "machine", world.what)?;
        }
        return Ok(true);
    }
    if let Some(switch) = arguments.without {
        let found = without(switch, &worlds, cpus, threads, out)?;
        if json {
            let told = found.as_ref().map(|f| json!({"world": f.world, "steps": f.steps, "property": f.property}));
            writeln!(out, "{}", json!({"check": switch.name(), "counterexample": told, "ok": told.is_some()}))?;
        }
        return Ok(found.is_some());
    }
    let alone = arguments.world.is_some();
    if alone && json {
        return Err(io::Error::other("--json is for all machines, or for one check with --without"));
    }
    let report = if alone { explore(&worlds, cpus, threads, out)? } else { examine(cpus, threads, out)? };
    if json {
        writeln!(out, "{}", report.json())?;
    }
    Ok(if alone { report.sound() } else { report.ok() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(arguments: &[&str]) -> (bool, String) {
        let arguments = Arguments::try_parse_from([&["model"], arguments].concat()).expect("arguments");
        let mut out = Vec::new();
        let ok = run(&arguments, &mut out).expect("room");
        (ok, String::from_utf8(out).expect("text"))
    }

    #[test]
    fn bad_input_is_one_clear_error() {
        for (arguments, what) in [
            (["--cpus", "3"], "3 is not in 1..=2"),
            (["--cpus", "many"], "invalid digit"),
            (["--without", "everything"], "there is no such check; --list names them"),
            (["--world", "earth"], "the machines are views, kernel, module, modules, label"),
            (["--list", "--json"], "cannot be used with"),
        ] {
            let error = Arguments::try_parse_from(["model"].iter().chain(&arguments)).err().expect("an error");
            assert!(error.to_string().contains(what), "{error}");
        }
    }

    #[test]
    fn everything_is_listed() {
        let (ok, text) = said(&["--list"]);
        assert!(ok && text.lines().any(|l| l.starts_with("neighbour ")) && text.lines().count() > 60, "{text}");
    }

    #[test]
    fn one_machine_and_one_counterexample() {
        let (ok, text) = said(&["--world", "views"]);
        assert!(ok && text.starts_with("views ") && text.lines().count() == 1, "{text}");
        let half = Arguments::try_parse_from(["model", "--world", "views", "--json"]).expect("arguments");
        assert!(run(&half, &mut Vec::new()).is_err(), "one machine says nothing of all checks");
        let (ok, text) = said(&["--without", "device-writes", "--json"]);
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert!(ok && last["counterexample"]["steps"][0] == "a device writes to the frame of K0", "{text}");
        let (ok, text) = said(&["--world", "views", "--without", "neighbour"]);
        assert!(!ok && text.ends_with("nothing happens\n"), "{text}");
    }
}
