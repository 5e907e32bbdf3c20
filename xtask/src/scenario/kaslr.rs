//! Where the kernel lies: anew at every boot, and where it was linked if the command line says so.

use super::stage::{QUIET, Setting, Stage, no_violations, said, switched_off};
use crate::attack::spoil;
use crate::guest::Guest;
use crate::kernel::Line;
use crate::machine::{Boot, Machine};
use crate::play::Play;
use crate::run::{self, FIXED};
use anyhow::{Context, Result, ensure};
use secvisor_approval::build::seal;
use secvisor_approval::view;
use secvisor_approval::wire::{Info, Section};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where Linux put what it places.
#[derive(Debug)]
struct Places {
    /// The kernel's first byte, virtual.
    text: u64,
    /// The same, physical.
    code: u64,
    /// Where a module's text begins.
    module: u64,
    /// The direct map, the range of vmalloc, and the map of pages, as far as there is memory.
    regions: [u64; 3],
}

/// The kernel lies elsewhere at every boot and so does what Linux places itself; `nokaslr` keeps all of it where it was
/// linked. Neither SecVisor's lines on the console nor its counters tell where.
pub fn places(stage: &Stage) -> Result<()> {
    let info = linked(stage)?;
    let fixed = Case { append: FIXED, says: "off, as the command line asks", ..Case::default() }.boot(stage)?;
    ensure!(fixed.text == info.image_va && fixed.code == info.image_phys, "{FIXED}: {fixed:x?}");
    let usual = Case::default();
    let drawn = [usual.boot(stage)?, usual.boot(stage)?];
    for places in &drawn {
        let far = (places.text.wrapping_sub(info.image_va), places.code.wrapping_sub(info.image_phys));
        let room = info.modules_start - info.image_va - info.image_span;
        ensure!(far.0 <= room && far.0 % info.align == 0 && far.1 % info.align == 0, "an odd place: {places:x?}");
    }
    // Each has some hundred places at least: two boots may well meet in one of them, hardly in two.
    let [first, second] = &drawn;
    ensure!((first.text, first.code) != (second.text, second.code), "the kernel stays where it is: {drawn:x?}");
    let differ = |of: fn(&Places) -> u64| drawn.iter().chain([&fixed]).map(of).collect::<BTreeSet<_>>().len() > 1;
    ensure!(differ(|p| p.module), "modules stay where they are: {drawn:x?}");
    let regions: [fn(&Places) -> u64; 3] = [|p| p.regions[0], |p| p.regions[1], |p| p.regions[2]];
    ensure!(regions.into_iter().all(differ), "a region stays where it is: {drawn:x?}, {fixed:x?}");
    Ok(())
}

/// Where there is nothing to draw from, or nothing to move by, the kernel lies where it was linked; where the command line
/// limits memory it is at least its physical address.
pub fn exceptions(stage: &Stage) -> Result<()> {
    let info = linked(stage)?;
    let unmovable = without_relocations(stage)?;
    let cases = [
        Case { cpu: ",-rdrand,-rdseed", says: "off, the processor has no random numbers", ..Case::default() },
        Case {
            approval: Some(&unmovable),
            says: "off, the approval does not say how to move the kernel",
            ..Case::default()
        },
    ];
    for case in cases {
        let places = case.boot(stage)?;
        ensure!(places.text == info.image_va && places.code == info.image_phys, "{}: {places:x?}", case.says);
    }
    let says = "on for virtual addresses only: the command line limits memory";
    let places = Case { append: "mem=900M", says, ..Case::default() }.boot(stage)?;
    ensure!(places.code == info.image_phys, "{places:x?}");
    Ok(())
}

/// What the approval says of the kernel.
fn linked(stage: &Stage) -> Result<Info> {
    Ok(view::open(&mut fs::read(&stage.approval)?)?.1.info)
}

/// An approval of a kernel that was built without a relocation table.
fn without_relocations(stage: &Stage) -> Result<PathBuf> {
    let mut file = fs::read(&stage.approval)?;
    let len = spoil::entry(Section::Relocs) + 8;
    file[len..len + 8].fill(0);
    seal(&mut file);
    let path = stage.file("unmovable");
    fs::write(&path, file)?;
    Ok(path)
}

/// A boot, and what SecVisor says of KASLR.
struct Case<'a> {
    append: &'a str,
    /// What to add to the processor's description.
    cpu: &'a str,
    approval: Option<&'a Path>,
    says: &'a str,
}

impl Default for Case<'_> {
    fn default() -> Self {
        Self { append: "", cpu: "", approval: None, says: "on" }
    }
}

impl Case<'_> {
    fn start(&self, stage: &Stage) -> Result<Guest> {
        let mut machine = Machine::new(&format!("kaslr-{}", stage.kernel.release));
        machine.qemu.cpu += self.cpu;
        let mut initrd = stage.initrd()?;
        initrd.add_file("bin/secvisor", &crate::program::build()?.status)?;
        let initrd = initrd.script(&[QUIET, LOOK].concat()).write(&stage.file("initrd"))?;
        let mut boot = stage.boot(Setting::Beneath, &initrd, self.append);
        if let (Boot::Multiboot { modules, .. }, Some(approval)) = (&mut boot, self.approval) {
            modules[0].0 = approval.to_path_buf();
        }
        machine.start(&boot)
    }

    /// Boots beneath SecVisor and looks where everything is.
    fn boot(&self, stage: &Stage) -> Result<Places> {
        let kaslr = self.says;
        let mut guest = self.start(stage)?;
        switched_off(&mut guest, Duration::from_secs(200))?;
        no_violations(&guest)?;
        let place = guest.where_to_look();
        let ours: Vec<&String> = guest.console().iter().filter(|line| line.contains("secvisor: ")).collect();
        let line = ours.iter().find_map(|line| line.split("KASLR: ").nth(1));
        ensure!(line == Some(kaslr), "KASLR is {line:?}, not {kaslr}; {place}");
        let number = |text: &str| u64::from_str_radix(text.trim().trim_start_matches("0x"), 16);
        let one = |what: &str| -> Result<u64> {
            let text = *said(&guest, what).first().with_context(|| format!("no {what}; {place}"))?;
            number(text).with_context(|| format!("{what}: {text}; {place}"))
        };
        let (text, code, module) = (one("text")?, one("code")?, one("module")?);
        let regions = regions(&said(&guest, "kcore")).with_context(|| format!("/proc/kcore; {place}"))?;
        // Nothing of it in what SecVisor says.
        let secrets = [text, code, text & 0xffff_ffff, module, regions[0]];
        for line in &ours {
            let told = line
                .split(|c: char| !c.is_ascii_hexdigit())
                .any(|word| number(word).is_ok_and(|n| secrets.contains(&n)));
            ensure!(!told, "the console tells a place: {line}; {place}");
        }
        let counters = said(&guest, "counter");
        let values: Vec<u64> =
            counters.iter().filter_map(|line| line.split_whitespace().last()?.parse().ok()).collect();
        ensure!(values.len() > 20, "no counters; {place}");
        ensure!(!values.iter().any(|value| secrets.contains(value)), "a counter tells a place: {counters:?}; {place}");
        println!("  {}: KASLR {kaslr}: text {text:#x} at {code:#x}, module {module:#x}", stage.kernel.release);
        guest.finish()?;
        Ok(Places { text, code, module, regions })
    }
}

/// What the program headers of `/proc/kcore` say, seven words each: type and flags, offset, virtual address, physical
/// address, size twice, alignment.
fn regions(lines: &[&str]) -> Option<[u64; 3]> {
    let words =
        |line: &&str| line.split_whitespace().map(|w| u64::from_str_radix(w, 16).ok()).collect::<Option<Vec<_>>>();
    let headers: Vec<Vec<u64>> = lines.iter().filter_map(words).filter(|w| w.len() == 7).collect();
    let load =
        |w: &&Vec<u64>| w[0] & 0xffff_ffff == 1 && (0xffff_8000_0000_0000..0xffff_ffff_8000_0000).contains(&w[2]);
    let mut ranges: Vec<_> = headers.iter().filter(load).map(|w| (w[2], w[4])).collect();
    ranges.sort();
    // Vmalloc's is terabytes in size.
    let vmalloc = ranges.iter().find(|r| r.1 > 1 << 40)?.0;
    Some([ranges.first()?.0, vmalloc, ranges.last()?.0])
}

/// `said` takes what stands behind these words.
const LOOK: &str = r#"
echo "text: $(grep ' _text$' /proc/kallsyms | cut -d ' ' -f 1)"
echo "code: $(grep 'Kernel code' /proc/iomem | tr -d ' ' | cut -d - -f 1)"
insmod /modules/witness.ko
echo "module: $(grep '^witness ' /proc/modules | cut -d ' ' -f 6)"
od -A n -t x8 -w56 -v -j 64 -N 560 /proc/kcore | sed 's/^/kcore: /'
secvisor status | sed 's/^/counter: /'
"#;

/// The demonstration, several times, with the kernel in different places.
pub fn demonstrations(line: Line) -> Result<()> {
    let plays = run::demonstrations(line, 3)?;
    // Where the system call was that it overwrites.
    let field = |key: &str| -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for play in &plays {
            let step = play.outcomes.get("text-overwrite").context("nothing was overwritten")?;
            let line = step.violations.first().context("nothing was reported")?;
            let value = line.split(' ').find_map(|word| word.strip_prefix(key));
            found.insert(value.with_context(|| format!("no {key} in \"{line}\""))?.to_string());
        }
        Ok(found)
    };
    let (virtual_places, physical_places) = (field("rip=")?, field("gpa=")?);
    println!("  {}: at {virtual_places:?}, in {physical_places:?}", line.name());
    ensure!(virtual_places.len() > 1 && physical_places.len() > 1, "the kernel stays where it is");
    plays.into_iter().try_for_each(Play::finish)
}
