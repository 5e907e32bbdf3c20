//! A private apt: Debian packages by name, without root and without touching the system's own apt.
//!
//! The archive's address, its proxy and its key come from the system; sources, state and cache are ours.

use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Used in place of the system's sources where they name no Debian archive.
const MIRROR_VARIABLE: &str = "SECVISOR_DEBIAN_MIRROR";

/// The archive holds old and new releases of one package; this says which one is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Debian 12 with its security updates.
    Bookworm,
    /// Newer versions rebuilt for Debian 12.
    BookwormBackports,
    /// Newer versions rebuilt for Debian 13.
    TrixieBackports,
    /// Debian 13, whose programs need its own C library.
    Trixie,
}

/// Packages of Debian 13 are taken only where it is named.
const PREFERENCES: &str = "Package: *\nPin: release n=trixie\nPin-Priority: -1\n";

/// One package in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name in the archive.
    pub name: String,
    /// Its version in the archive.
    pub version: String,
}

/// The private apt's directory, configured.
pub struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// Sets up the private state and reads the package lists, once per process.
    pub fn open() -> Result<&'static Apt> {
        static OPENED: OnceLock<Apt> = OnceLock::new();
        if let Some(apt) = OPENED.get() {
            return Ok(apt);
        }
        let apt = Apt { directory: workspace::cache().join("apt") };
        let suites = ["bookworm", "bookworm-security", "bookworm-backports", "trixie-backports", "trixie"];
        apt.configure(&suites, PREFERENCES, Path::new("/var/lib/dpkg/status"))?;
        Ok(OPENED.get_or_init(|| apt))
    }

    /// For a system of the release of this name, on which nothing is installed yet; its kernel from the backports or not.
    pub fn for_new_system(codename: &str, backports: bool) -> Result<Apt> {
        let name = if backports { format!("{codename}-backports") } else { codename.to_string() };
        let directory = workspace::cache().join(format!("apt-{name}"));
        fs::create_dir_all(&directory)?;
        let status = directory.join("status");
        fs::write(&status, "")?;
        let apt = Apt { directory };
        let mut suites = vec![codename.to_string(), format!("{codename}-security")];
        let mut preferences = String::new();
        if backports {
            preferences = format!("Package: linux-*\nPin: release n={name}\nPin-Priority: 990\n");
            suites.push(name);
        }
        apt.configure(&suites, &preferences, &status)?;
        Ok(apt)
    }

    /// Sets up the private state, with what `status` says is installed, and reads the package lists.
    fn configure(&self, suites: &[impl AsRef<str>], preferences: &str, status: &Path) -> Result<()> {
        for tool in ["apt-get", "apt-cache", "dpkg-deb"] {
            ensure!(workspace::find_program(tool).is_some(), "cannot fetch Debian packages: {tool} is missing");
        }
        ensure!(Path::new(KEYRING).exists(), "cannot fetch Debian packages: {KEYRING} is missing");
        for sub in ["state/lists/partial", "cache/archives/partial", "archives"] {
            fs::create_dir_all(self.directory.join(sub))?;
        }
        let (main, security) = mirrors()?;
        let line = |suite: &str| {
            let uri = if suite.ends_with("-security") { &security } else { &main };
            format!("deb [signed-by={KEYRING}] {uri} {suite} main\n")
        };
        fs::write(
            self.directory.join("sources.list"),
            suites.iter().map(|suite| line(suite.as_ref())).collect::<String>(),
        )?;
        fs::write(self.directory.join("preferences"), preferences)?;
        let here = self.directory.display();
        let configuration = format!(
            "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n#clear DPkg::Post-Invoke;\n\
             #clear Acquire::IndexTargets::deb::DEP-11;\n#clear Acquire::IndexTargets::deb::DEP-11-icons-small;\n\
             #clear Acquire::IndexTargets::deb::DEP-11-icons;\n\
             Dir::Etc::sourcelist \"{here}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::preferences \"{here}/preferences\";\nDir::Etc::preferencesparts \"/dev/null\";\n\
             Dir::State \"{here}/state\";\nDir::State::status \"{}\";\nDir::Cache \"{here}/cache\";\n\
             Dir::Cache::pkgcache \"pkgcache.bin\";\nDebug::NoLocking \"1\";\nAPT::Sandbox::User \"\";\n\
             APT::Default-Release \"\";\nAPT::Install-Recommends \"0\";\nAPT::Architecture \"amd64\";\n\
             Acquire::Languages \"none\";\n",
            status.display()
        );
        fs::write(self.directory.join("apt.conf"), configuration)?;
        let spinner = ProgressBar::new_spinner().with_message("reading the archive's package lists");
        spinner.enable_steady_tick(std::time::Duration::from_millis(120));
        let updated = read(self.command("apt-get").args(["update", "-qq", "-o", "APT::Update::Error-Mode=any"]));
        spinner.finish_and_clear();
        updated.context("cannot read the Debian archive's package lists (offline?)")?;
        Ok(())
    }

    fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        command.arg("-c").arg(self.directory.join("apt.conf")).env("LC_ALL", "C");
        command
    }

    fn command_in(&self, tool: &str, suite: Suite) -> Command {
        let mut command = self.command(tool);
        match suite {
            Suite::Bookworm => &mut command,
            Suite::BookwormBackports => command.args(["-t", "bookworm-backports"]),
            Suite::TrixieBackports => command.args(["-t", "trixie-backports"]),
            Suite::Trixie => command.args(["-t", "trixie"]),
        };
        command
    }

    /// The newest version of `name` in `suite`, and the packages it depends on (with an exact version where given).
    pub fn show(&self, name: &str, suite: Suite) -> Result<(Package, Vec<String>)> {
        let text = read(self.command_in("apt-cache", suite).args(["show", "--no-all-versions", name]))
            .with_context(|| format!("the Debian archive has no {name}"))?;
        let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let version = field("Version:").with_context(|| format!("apt shows no version of {name}"))?;
        let depends = field("Depends:").unwrap_or_default();
        let depends = depends.split(',').filter_map(|one| Some(one.split_whitespace().next()?.to_string())).collect();
        Ok((Package { name: name.to_string(), version: version.to_string() }, depends))
    }

    /// The version of `name`, from any suite, that starts with `prefix`.
    pub fn version_starting(&self, name: &str, prefix: &str) -> Result<Package> {
        let text = read(self.command("apt-cache").args(["madison", name]))?;
        let version = text
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(str::trim)
            .find(|version| version.starts_with(prefix))
            .with_context(|| format!("the Debian archive has no {name} {prefix}"))?;
        Ok(Package { name: name.to_string(), version: version.to_string() })
    }

    /// `names` and everything they need that the system lacks, without recommendations.
    pub fn with_dependencies(&self, names: &[&str], suite: Suite) -> Result<Vec<Package>> {
        let packages = self.resolve(names, &mut self.command_in("apt-get", suite))?;
        // Two C libraries in one process do not mix; the system's is new enough or nothing here would run.
        Ok(packages.into_iter().filter(|p| p.name != "libc6" && p.name != "libc-bin").collect())
    }

    /// `names` and everything they need, the C library included, as if the system had nothing.
    pub fn with_everything(&self, names: &[&str], suite: Suite) -> Result<Vec<Package>> {
        self.resolve(names, self.command_in("apt-get", suite).args(["-o", "Dir::State::status=/dev/null"]))
    }

    fn resolve(&self, names: &[&str], apt_get: &mut Command) -> Result<Vec<Package>> {
        // Reinstalling makes apt list the named packages even where the system already has them.
        let text = read(apt_get.args(["install", "--simulate", "--reinstall", "-qq"]).args(names))
            .with_context(|| format!("apt cannot resolve {}", names.join(" ")))?;
        // "Inst name [old] (version archive [arch])"
        let packages: Vec<_> = text.lines().filter_map(parse_inst).collect();
        ensure!(!packages.is_empty(), "apt resolves {} to nothing", names.join(" "));
        Ok(packages)
    }

    /// What is installed in the end when these packages, or those that match these patterns, are asked for: with
    /// everything they need, without recommendations.
    pub fn closure(&self, wanted: &[&str]) -> Result<Vec<Package>> {
        self.resolve(wanted, &mut self.command("apt-get"))
    }

    /// The archive's own records of these packages, as in its `Packages`.
    pub fn records(&self, packages: &[Package]) -> Result<Vec<String>> {
        let names = packages.iter().map(|p| format!("{}={}", p.name, p.version));
        let text = read(self.command("apt-cache").args(["show", "--no-all-versions"]).args(names))?;
        let records = text.split("\n\n").map(str::trim).filter(|one| !one.is_empty());
        let records: Vec<_> = records.map(str::to_string).collect();
        ensure!(records.len() == packages.len(), "{} packages have {} records", packages.len(), records.len());
        Ok(records)
    }

    /// Downloads `packages` and unpacks them over one another into `directory`.
    pub fn unpack(&self, label: &str, packages: &[Package], directory: &Path) -> Result<()> {
        let archives = self.directory.join("archives");
        self.download(label, packages, &archives)?;
        for package in packages {
            let deb = workspace::only_entry(&archives, &format!("{}_", package.name), ".deb")?;
            read(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(directory))?;
            fs::remove_file(deb)?;
        }
        Ok(())
    }

    /// Downloads `packages` into the directory, where nothing else remains.
    pub fn download(&self, label: &str, packages: &[Package], archives: &Path) -> Result<()> {
        if archives.exists() {
            fs::remove_dir_all(archives)?;
        }
        fs::create_dir_all(archives)?;
        let bar = ProgressBar::new(100).with_message(label.to_string());
        bar.set_style(ProgressStyle::with_template("{msg:16} [{bar:40}] {percent:>3}%  {elapsed}")?);
        let mut child = self
            .command("apt-get")
            .args(["download", "-qq", "-o", "APT::Status-Fd=1"])
            .args(packages.iter().map(|p| format!("{}={}", p.name, p.version)))
            .current_dir(archives)
            .stdout(Stdio::piped())
            .spawn()?;
        let status = child.stdout.take().context("apt-get has no output")?;
        for line in BufReader::new(status).lines() {
            // "dlstatus:<item>:<percent>:<description>"
            let line = line?;
            let mut fields = line.split(':');
            if fields.next() == Some("dlstatus")
                && let Some(Ok(percent)) = fields.nth(1).map(str::parse::<f64>)
            {
                bar.set_position(percent as u64);
            }
        }
        bar.finish_and_clear();
        ensure!(child.wait()?.success(), "cannot download {label}");
        Ok(())
    }
}

fn parse_inst(line: &str) -> Option<Package> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
    let version = rest.split_once('(')?.1.split_whitespace().next()?;
    Some(Package { name: name.to_string(), version: version.to_string() })
}

/// The addresses of the main and the security archive.
fn mirrors() -> Result<(String, String)> {
    let security_beside = |main: &str| format!("{}-security", main.trim_end_matches('/'));
    if let Ok(main) = std::env::var(MIRROR_VARIABLE) {
        let security = security_beside(&main);
        return Ok((main, security));
    }
    let listed = read(
        Command::new("apt-get")
            .args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
            .env("LC_ALL", "C"),
    )?;
    let ending = |end: &str| {
        listed.lines().map(str::trim).find(|uri| uri.trim_end_matches('/').ends_with(end)).map(str::to_string)
    };
    let Some(main) = ending("/debian") else {
        bail!("the system's apt names no Debian archive: set {MIRROR_VARIABLE} to one (http://.../debian)");
    };
    let security = ending("/debian-security").unwrap_or_else(|| security_beside(&main));
    Ok((main, security))
}

/// Runs `command` and returns its output; a failure carries the first thing it complained about.
fn read(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    let first = complaints.lines().find(|line| line.starts_with("E: ")).or(complaints.lines().next());
    ensure!(output.status.success(), "{:?} failed: {}", command.get_program(), first.unwrap_or_default());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_simulation_lines_are_understood() {
        let plain = parse_inst("Inst libfdt1 (1.6.1-4+b1 Debian:12.15/oldstable [amd64])");
        let upgrade = parse_inst("Inst libc6 [2.36-9+deb12u10] (2.36-9+deb12u14 Debian:12 [amd64]) []");
        assert_eq!(plain, Some(Package { name: "libfdt1".into(), version: "1.6.1-4+b1".into() }));
        assert_eq!(upgrade.map(|p| p.version), Some("2.36-9+deb12u14".into()));
        assert_eq!(parse_inst("Conf libfdt1 (1.6.1-4+b1 Debian:12.15/oldstable [amd64])"), None);
    }
}
