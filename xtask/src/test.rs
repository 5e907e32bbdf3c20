//! `cargo xtask test`: everything that can fail, counted.

use crate::kernel::{Kernel, Line};
use crate::scenario::{self, Scenario};
use crate::{model, toolchain, workspace};
use anyhow::{Result, ensure};
use std::time::Instant;
use xshell::{Shell, cmd};

/// The packages that run on the host: all but the hypervisor.
const HOST: [&str; 3] = ["--workspace", "--exclude", "secvisor-hypervisor"];

#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
    /// What failed, for the last line.
    names: Vec<String>,
}

/// Runs the checks, the host's tests and the boots, or only the boots whose name contains `only`; tells
/// whether all passed.
pub fn all(only: Option<&str>) -> Result<bool> {
    let shell = workspace::shell()?;
    let mut tally = Tally::default();
    if only.is_none() {
        tally.check("format", || Ok(cmd!(shell, "cargo fmt --all --check").quiet().run()?));
        let lint = cmd!(shell, "cargo clippy --quiet").args(HOST).args(["--all-targets", "--", "-D", "warnings"]);
        tally.check("lint", || Ok(lint.quiet().run()?));
        tally.check("lint-hypervisor", toolchain::lint_hypervisor);
        // Some of the host's tests read them.
        tally.check("kernels", || Line::USUAL.into_iter().try_for_each(|line| Kernel::obtain(line).map(|_| ())));
        tally.host_tests(&shell)?;
        tally.check("model", model::as_documented);
        tally.check("model-2-cpus", model::two_cpus);
    }
    let stories = scenario::all();
    // One name may be the beginning of another.
    let whole = stories.iter().any(|scenario| only == Some(&scenario.name));
    let named = |name: &str, part: &str| if whole { name == part } else { name.contains(part) };
    let wanted = |scenario: &&Scenario| only.map_or(!scenario.long, |part| named(&scenario.name, part));
    ensure!(stories.iter().any(|scenario| wanted(&scenario)), "no boot is called so");
    for scenario in stories.iter().filter(wanted) {
        tally.check(&scenario.name, &scenario.run);
    }
    if tally.failed > 0 {
        println!("failed: {}", tally.names.join(", "));
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally.failed == 0)
}

impl Tally {
    /// Runs it, says how it ended and how long it took; an error says why, and where to look.
    fn check(&mut self, name: &str, run: impl FnOnce() -> Result<()>) {
        let start = Instant::now();
        let result = run();
        if let Err(error) = &result {
            eprintln!("{name}: {error:#}");
        }
        println!("{} {name} ({:.1} s)", if result.is_ok() { "pass" } else { "FAIL" }, start.elapsed().as_secs_f32());
        match result {
            Ok(()) => self.passed += 1,
            Err(_) => self.fail(name, 1),
        }
    }

    fn fail(&mut self, name: &str, count: u32) {
        self.failed += count;
        self.names.push(name.to_string());
    }

    /// Adds up what the test programs report of themselves.
    fn host_tests(&mut self, shell: &Shell) -> Result<()> {
        let start = Instant::now();
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
        println!("host tests: {passed} pass, {} FAIL ({:.1} s)", failed + unreported, start.elapsed().as_secs_f32());
        self.passed += passed;
        if !output.status.success() {
            self.fail("host tests", failed + unreported);
        }
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
