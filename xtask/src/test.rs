//! `cargo xtask test`: everything that can fail, counted.

use crate::scenario::{self, Scenario};
use crate::{model, workspace};
use anyhow::Result;
use std::time::Instant;
use xshell::{Cmd, Shell, cmd};

/// The packages that run on the host: all but the hypervisor.
const HOST: [&str; 3] = ["--workspace", "--exclude", "secvisor-hypervisor"];

#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
}

/// Runs the checks, the host's tests and the boots, or only the boots whose name contains `only`; tells
/// whether all passed.
pub fn all(only: Option<&str>) -> Result<bool> {
    let shell = workspace::shell()?;
    let mut tally = Tally::default();
    if only.is_none() {
        tally.check("format", cmd!(shell, "cargo fmt --all --check"));
        let lint = cmd!(shell, "cargo clippy --quiet").args(HOST).args(["--all-targets", "--", "-D", "warnings"]);
        tally.check("lint", lint);
        tally.host_tests(&shell)?;
        tally.timed("model", model::as_documented);
    }
    let wanted = |scenario: &&Scenario| only.map_or(!scenario.long, |part| scenario.name.contains(part));
    for scenario in scenario::all().iter().filter(wanted) {
        tally.timed(&scenario.name, &scenario.run);
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally.failed == 0)
}

impl Tally {
    fn count(&mut self, name: &str, passed: bool) {
        println!("{} {name}", if passed { "pass" } else { "FAIL" });
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }

    fn timed(&mut self, name: &str, test: impl Fn() -> Result<()>) {
        let start = Instant::now();
        let result = test();
        let took = start.elapsed().as_secs_f32();
        if let Err(error) = &result {
            eprintln!("{name}: {error:#}");
        }
        self.count(&format!("{name} ({took:.1} s)"), result.is_ok());
    }

    fn check(&mut self, name: &str, command: Cmd) {
        let passed = command.quiet().run().is_ok();
        self.count(name, passed);
    }

    /// Adds up what the test programs report of themselves.
    fn host_tests(&mut self, shell: &Shell) -> Result<()> {
        let tests = cmd!(shell, "cargo test --quiet --no-fail-fast").args(HOST);
        let output = tests.quiet().ignore_status().output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (passed, failed) =
            text.lines().filter_map(parse_result).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        if !output.status.success() {
            println!("{text}");
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
        // A test program that does not even build reports no count.
        let unreported = u32::from(!output.status.success() && failed == 0);
        println!("host tests: {passed} pass, {} FAIL", failed + unreported);
        self.passed += passed;
        self.failed += failed + unreported;
        Ok(())
    }
}

/// "test result: ok. 3 passed; 0 failed; .."
fn parse_result(line: &str) -> Option<(u32, u32)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let before = |what: &str| counts.split(what).next()?.rsplit(' ').next()?.parse().ok();
    Some((before(" passed")?, before(" failed")?))
}

#[cfg(test)]
mod tests {
    use super::parse_result;

    #[test]
    fn result_lines_are_understood() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(parse_result(line), Some((12, 3)));
        assert_eq!(parse_result("running 3 tests"), None);
    }
}
