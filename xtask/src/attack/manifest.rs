//! `attacks/manifest`: which attacks there are, and how each must end.

use crate::emulator::Emulator;
use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use std::fs;

/// Which boot an attack gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boots {
    /// Attacks of the same group share one.
    pub group: String,
    /// Where the others run without SecVisor, this one runs beneath a build of it that has this feature.
    pub feature: Option<String>,
}

impl Boots {
    fn parse(cell: &str, name: &str) -> Boots {
        let (group, feature) = cell.split_once(':').unwrap_or((cell, ""));
        let group = if group == OWN { name } else { group }.to_string();
        Boots { group, feature: Some(feature).filter(|feature| !feature.is_empty()).map(str::to_string) }
    }

    /// Whether it shares its boot with many of the others.
    pub fn shared(&self) -> bool {
        SHARED.contains(&self.group.as_str())
    }
}

/// The largest groups: of one CPU, and of two.
const SHARED: [&str; 2] = ["shared", "cpus"];

/// A group of its own.
const OWN: &str = "own";

/// How many CPUs an attack makes sense with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpus {
    /// As many as one likes.
    Any,
    /// Only one.
    One,
    /// Two or more.
    Many,
}

impl Cpus {
    fn parse(cell: &str) -> Result<Cpus> {
        match cell {
            "-" => Ok(Cpus::Any),
            "1" => Ok(Cpus::One),
            "2" => Ok(Cpus::Many),
            _ => bail!("neither -, 1 nor 2 CPUs: {cell}"),
        }
    }

    /// How many the attack's machine has, if so many are wanted; none if it makes no sense then.
    pub fn of(self, wanted: u32) -> Option<u32> {
        match self {
            Cpus::Any => Some(wanted),
            Cpus::One => (wanted == 1).then_some(1),
            Cpus::Many => Some(wanted.max(2)),
        }
    }
}

/// An attack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attack {
    /// Its row in the table of threats.
    pub row: String,
    /// Its name; its file is called like it.
    pub name: String,
    /// Where it runs.
    pub boots: Boots,
    /// On how many CPUs.
    pub cpus: Cpus,
    /// How it must end without SecVisor.
    pub native: String,
    /// How it must end beneath it.
    pub secvisor: String,
    /// The rule that SecVisor must say was broken, if any.
    pub rule: Option<String>,
}

/// Every attack there is.
pub fn read() -> Result<Vec<Attack>> {
    let directory = workspace::root().join("attacks");
    let attacks = parse(&fs::read_to_string(directory.join("manifest"))?)?;
    for attack in &attacks {
        ensure!(directory.join(format!("{}.c", attack.name)).is_file(), "attack {} has no file", attack.name);
    }
    Ok(attacks)
}

/// Takes out what cannot be tried in this emulator; what it was and why, for people.
pub fn leave_out(attacks: &mut Vec<Attack>, emulator: Emulator) -> Result<Vec<String>> {
    if emulator == Emulator::Qemu {
        return Ok(Vec::new());
    }
    let reasons = parse_reasons(&fs::read_to_string(workspace::root().join("attacks/not-on-bochs"))?)?;
    let mut left_out = Vec::new();
    attacks.retain(|attack| match reasons.iter().find(|(name, _)| *name == attack.name) {
        Some((name, reason)) => {
            left_out.push(format!("{name}: {reason}"));
            false
        }
        None if attack.cpus == Cpus::Many => {
            left_out.push(format!("{}: needs two CPUs", attack.name));
            false
        }
        None => true,
    });
    Ok(left_out)
}

/// A name and a reason in each line.
fn parse_reasons(text: &str) -> Result<Vec<(String, String)>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let split = |line: &str| {
        let (name, reason) = line.split_once(' ').with_context(|| format!("no reason: {line}"))?;
        Ok((name.to_string(), reason.trim().to_string()))
    };
    lines.map(split).collect()
}

fn parse(text: &str) -> Result<Vec<Attack>> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(parse_line).collect()
}

fn parse_line(line: &str) -> Result<Attack> {
    let cells: Vec<_> = line.split_whitespace().map(str::to_string).collect();
    let [row, name, boots, cpus, native, secvisor, rule] =
        <[String; 7]>::try_from(cells).ok().with_context(|| format!("not seven columns: {line}"))?;
    let boots = Boots::parse(&boots, &name);
    let cpus = Cpus::parse(&cpus)?;
    let rule = Some(rule).filter(|rule| rule != "-");
    Ok(Attack { row, name, boots, cpus, native, secvisor, rule })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_understood() {
        let attacks = parse("# a comment\n\n19 svm shared:without-x 2 succeeded refused -\n").unwrap();
        assert_eq!(attacks.len(), 1);
        let boots =
            |group: &str, feature: Option<&str>| Boots { group: group.into(), feature: feature.map(Into::into) };
        assert_eq!(attacks[0].boots, boots("shared", Some("without-x")));
        assert_eq!(Boots::parse("shared", "a"), boots("shared", None));
        assert_eq!(Boots::parse("own", "a"), boots("a", None));
        assert_eq!(Boots::parse("own:without-x", "a"), boots("a", Some("without-x")));
        assert_eq!((attacks[0].rule.as_ref(), attacks[0].cpus), (None, Cpus::Many));
        assert!(parse("19 svm").is_err());
        assert!(parse("19 svm own 3 succeeded refused -").is_err());
    }

    #[test]
    fn a_machine_has_the_cpus_its_attacks_need() {
        assert_eq!([1, 2, 4].map(|wanted| Cpus::Any.of(wanted)), [Some(1), Some(2), Some(4)]);
        assert_eq!([1, 2, 4].map(|wanted| Cpus::One.of(wanted)), [Some(1), None, None]);
        assert_eq!([1, 2, 4].map(|wanted| Cpus::Many.of(wanted)), [Some(2), Some(2), Some(4)]);
    }

    #[test]
    fn what_is_left_out_is_an_attack_and_has_a_reason() {
        let reasons = parse_reasons("# a comment\n\nsome-attack  no such device\n").unwrap();
        assert_eq!(reasons, [("some-attack".to_string(), "no such device".to_string())]);
        assert!(parse_reasons("some-attack\n").is_err());
        let (all, mut some) = (read().unwrap(), read().unwrap());
        assert!(leave_out(&mut some, Emulator::Qemu).unwrap().is_empty());
        let left_out = leave_out(&mut some, Emulator::Bochs).unwrap();
        assert_eq!(left_out.len() + some.len(), all.len());
        let named = fs::read_to_string(workspace::root().join("attacks/not-on-bochs")).unwrap();
        let known = |name: &String| all.iter().any(|attack| attack.name == *name);
        parse_reasons(&named).unwrap().iter().for_each(|(name, _)| assert!(known(name), "no attack {name}"));
    }

    #[test]
    fn every_attack_has_a_file_and_every_file_an_attack() {
        let attacks = read().unwrap();
        for entry in fs::read_dir(workspace::root().join("attacks")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "c") {
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                assert!(attacks.iter().any(|attack| attack.name == name), "{name} is not in the manifest");
            }
        }
    }
}
