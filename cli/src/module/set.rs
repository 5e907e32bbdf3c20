//! All modules of an approval
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use object::elf;
use rayon::prelude::*;
use secvisor_approval::build::{RegionDef, SiteDef, SymbolDef};
use secvisor_approval::wire::{NONE, RegionKind, SiteKind, VarClass};

use super::image::{Image, Width};
use super::ko::{ENDINGS, Home, Ko};
use super::layout::{Block, Layout, Scheme};
use super::link::{Linked, block_of, exports, var};
use super::sites::{Site, What, find};
use crate::code::{Address, Code, Variant};
use crate::emit::Emitter;
use crate::flavor::Flavor;
use crate::kernel::Kernel;

/// A module that is not part of the approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Name, or the file's if that is not known.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// Modules, ready to be written.
pub struct Set {
    modules: Vec<Module>,
    left_out: Vec<LeftOut>,
}

/// A module, ready to be written.
struct Module {
    name: String,
    /// Number in the set, as in [`var`].
    number: u32,
    regions: Vec<Region>,
}

struct Region {
    image: Image,
    sites: Vec<Site>,
    symbols: Vec<SymbolDef>,
}

/// The module files below these paths, sorted. A file that is named itself is taken whatever its ending.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut pending: Vec<PathBuf> = Vec::new();
    for path in paths {
        let path = path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?;
        if path.is_dir() {
            pending.push(path);
        } else {
            found.insert(path);
        }
    }
    while let Some(directory) = pending.pop() {
        let entries = std::fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let is_module = name.to_str().is_some_and(|n| ENDINGS.iter().any(|e| n.ends_with(e)));
            // Links are not followed: a tree's `build` and `source` lead elsewhere.
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            } else if is_module {
                found.insert(entry.path());
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// A module that has been read and laid out.
struct Placed {
    ko: Ko,
    layout: Layout,
}

impl Set {
    /// Reads and prepares module files.
    pub fn load(files: &[PathBuf], kernel: &Kernel<'_>) -> Result<Self> {
        let scheme = match kernel.flavor {
            Flavor::V6_1 => Scheme::Two,
            Flavor::V6_12 => Scheme::Seven,
        };
        let mut left_out = Vec::new();
        let read: Vec<Result<Placed>> =
            files.par_iter().map(|path| place(path, scheme, &kernel.setup.release)).collect();
        let mut by_name: BTreeMap<String, Placed> = BTreeMap::new();
        for (path, result) in files.iter().zip(read) {
            match result {
                Err(reason) => {
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    left_out.push(LeftOut { name, path: path.clone(), reason: format!("{reason:#}") });
                }
                Ok(new) => match by_name.get(&new.ko.name) {
                    None => {
                        by_name.insert(new.ko.name.clone(), new);
                    }
                    Some(known) if known.ko.same(&new.ko) => {}
                    Some(known) => {
                        let (a, b) = (known.ko.path.display(), path.display());
                        bail!("two different modules are called {}: {a} and {b}", new.ko.name);
                    }
                },
            }
        }
        let placed: Vec<Placed> = by_name.into_values().collect();
        let table = export_table(&placed)?;
        let export = |name: &str| {
            let own = kernel.symbols.export(name).map(Address::absolute);
            own.or_else(|| table.get(name).copied())
        };
        let prepared: Vec<Result<Module>> =
            placed.par_iter().enumerate().map(|(i, p)| prepare(p, i as u32, kernel, &export)).collect();
        let mut reasons: Vec<Option<String>> = Vec::with_capacity(placed.len());
        let mut modules: Vec<Option<Module>> = Vec::with_capacity(placed.len());
        for result in prepared {
            match result {
                Ok(module) => {
                    modules.push(Some(module));
                    reasons.push(None);
                }
                Err(reason) => {
                    modules.push(None);
                    reasons.push(Some(format!("{reason:#}")));
                }
            }
        }
        // A module that uses one that is left out could never be loaded.
        while let Some((i, needed)) = modules.iter().enumerate().find_map(|(i, m)| {
            let missing = m.as_ref()?.uses().into_iter().find(|n| reasons[*n as usize].is_some())?;
            Some((i, missing))
        }) {
            modules[i] = None;
            reasons[i] = Some(format!("it uses {}, which is left out", placed[needed as usize].ko.name));
        }
        for (placed, reason) in placed.iter().zip(reasons) {
            let Some(reason) = reason else { continue };
            left_out.push(LeftOut { name: placed.ko.name.clone(), path: placed.ko.path.clone(), reason });
        }
        left_out.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
        Ok(Self { modules: modules.into_iter().flatten().collect(), left_out })
    }

    /// Number of modules in the set.
    pub fn len(&self) -> usize {
        self.modules.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// Modules that are not in the set, and why.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// Writes the modules into an approval that holds the kernel's regions.
    pub fn emit(self, emitter: &mut Emitter) -> Result<()> {
        // A variable for the base of a module's text, and for every other block something refers to.
        let mut used = BTreeSet::new();
        for module in &self.modules {
            used.insert(var(module.number, Block::Text));
            module.each_address(|a| used.extend([a.var]));
            used.extend(module.regions.iter().map(|r| r.image.var));
        }
        used.remove(&NONE);
        let mut vars = HashMap::new();
        let mut numbers = Vec::with_capacity(self.modules.len());
        for module in &self.modules {
            let first = var(module.number, Block::Text);
            let own: Vec<u32> = used.range(first..first + Block::ALL.len() as u32).copied().collect();
            let classes: Vec<VarClass> = own.iter().map(|v| class(block_of(*v).1)).collect();
            let (number, first_var) = emitter.builder.module(&module.name, &classes);
            vars.extend(own.iter().zip(first_var..).map(|(own, var)| (*own, var)));
            numbers.push(number);
        }
        for (module, number) in self.modules.into_iter().zip(numbers) {
            emitter.builder.begin_module(number);
            let name = module.name;
            for region in module.regions {
                let mut writer = Writer { emitter, vars: &vars };
                let def = writer.region(number, region).with_context(|| format!("module {name}"))?;
                emitter.builder.region(def).with_context(|| format!("module {name}"))?;
            }
        }
        Ok(())
    }
}

impl Module {
    /// Calls `each` with every address the module's sites hold.
    fn each_address(&self, mut each: impl FnMut(Address)) {
        for site in self.regions.iter().flat_map(|r| &r.sites) {
            match &site.what {
                What::Field(_, to) | What::Call(_, to) => each(*to),
                What::Choice(variants) => {
                    variants.iter().flat_map(|v| &v.code.fields).for_each(|f| each(f.target));
                }
                _ => {}
            }
        }
    }

    /// Numbers of the other modules it refers to.
    fn uses(&self) -> BTreeSet<u32> {
        let mut used = BTreeSet::new();
        self.each_address(|a| {
            if a.var != NONE {
                used.insert(block_of(a.var).0);
            }
        });
        used
    }
}

fn class(block: Block) -> VarClass {
    match block {
        Block::Text | Block::InitText => VarClass::Code,
        Block::PerCpu => VarClass::PerCpu,
        Block::Data | Block::RoData | Block::RoAfterInit | Block::InitData | Block::InitRoData => VarClass::Data,
    }
}

fn place(path: &Path, scheme: Scheme, release: &str) -> Result<Placed> {
    let ko = Ko::read(path)?;
    let own = ko.vermagic.split(' ').next().unwrap_or("");
    ensure!(own == release, "it is a module of Linux {own}, the kernel is {release}");
    let layout = Layout::new(&ko, scheme)?;
    Ok(Placed { ko, layout })
}

/// What the modules export, by name.
fn export_table(placed: &[Placed]) -> Result<HashMap<&str, Address>> {
    let mut table = HashMap::new();
    let mut owners: HashMap<&str, &str> = HashMap::new();
    for (number, p) in placed.iter().enumerate() {
        let of = |reason| anyhow!("module {}: {reason}", p.ko.name);
        for (name, symbol, addend) in exports(&p.ko).map_err(of)? {
            let symbol = p.ko.symbols.get(symbol).context("an export has no symbol").map_err(of)?;
            let address = match symbol.home {
                Home::Section(s) => p.layout.sections[s].map(|place| Address {
                    var: var(number as u32, place.block),
                    value: place.offset.wrapping_add(symbol.value),
                }),
                Home::Absolute => Some(Address::absolute(symbol.value)),
                _ => None,
            };
            let address = address.with_context(|| format!("module {} exports {name} from nowhere", p.ko.name))?;
            table.insert(name, address.plus(addend));
            if let Some(other) = owners.insert(name, &p.ko.name) {
                bail!("the modules {other} and {} both export {name}", p.ko.name);
            }
        }
    }
    Ok(table)
}

fn prepare(
    placed: &Placed,
    number: u32,
    kernel: &Kernel<'_>,
    export: &(impl Fn(&str) -> Option<Address> + Sync),
) -> Result<Module> {
    let linked = Linked::new(&placed.ko, &placed.layout, number, export)?;
    let mut images = Vec::new();
    for block in [Block::Text, Block::InitText] {
        images.extend(Image::new(&linked, block)?);
    }
    let sites = find(&linked, kernel, &mut images)?;
    let regions = images.into_iter().zip(sites);
    let regions = regions.map(|(image, sites)| Region { symbols: symbols(&linked, &image), sites, image }).collect();
    Ok(Module { name: placed.ko.name.clone(), number, regions })
}

/// The names in a block's code.
fn symbols(linked: &Linked<'_>, image: &Image) -> Vec<SymbolDef> {
    let mut found = Vec::new();
    for symbol in &linked.ko.symbols {
        let Home::Section(section) = symbol.home else { continue };
        let place = linked.layout.sections[section].filter(|p| p.block == image.block);
        let name = linked.ko.name_of(symbol);
        let unnamed = name.is_empty() || matches!(symbol.kind, elf::STT_SECTION | elf::STT_FILE);
        let (Some(place), true, false) = (place, linked.ko.sections[section].is_code(), unnamed) else { continue };
        let offset = place.offset.wrapping_add(symbol.value);
        if offset < image.bytes.len() as u64 {
            let function = symbol.kind == elf::STT_FUNC;
            found.push(SymbolDef { offset: offset as u32, name: name.to_owned(), function });
        }
    }
    found
}

/// Turns sites into the approval's, with the variables they have there.
struct Writer<'a> {
    emitter: &'a mut Emitter,
    vars: &'a HashMap<u32, u32>,
}

impl Writer<'_> {
    fn address(&self, address: Address) -> Address {
        match address.var {
            NONE => address,
            var => Address { var: self.vars[&var], value: address.value },
        }
    }

    /// An expression as a site stores it, and what is added to it. Offsets in a block go into the latter, so that
    /// a module needs few expressions.
    fn expr(&mut self, target: Address, addend: i64) -> Result<(u16, i32)> {
        let target = self.address(target);
        let (value, addend) = match target.var {
            NONE => (target.value, addend),
            _ => (0, addend.wrapping_add(target.value as i64)),
        };
        let addend = i32::try_from(addend).context("an address lies too far from its block")?;
        Ok((self.emitter.builder.local_expr(target.var, value)?, addend))
    }

    fn variants(&self, variants: Vec<Variant>) -> Vec<Variant> {
        let moved = |code: Code| Code {
            fields: code
                .fields
                .into_iter()
                .map(|mut f| {
                    f.target = self.address(f.target);
                    f
                })
                .collect(),
            ..code
        };
        variants.into_iter().map(|v| Variant { cond: v.cond, code: moved(v.code) }).collect()
    }

    fn site(&mut self, base: u32, site: Site) -> Result<SiteDef> {
        let here = Address { var: base, value: site.offset };
        let (kind, index, arg) = match site.what {
            What::Field(width, target) => {
                let (kind, (index, arg)) = match width {
                    // Branches have it behind the field.
                    Width::Rel32 => (SiteKind::Rel32, self.expr(target.plus(4), -4)?),
                    Width::Abs32 => (SiteKind::Abs32, self.expr(target, 0)?),
                    Width::Abs64 => (SiteKind::Abs64, self.expr(target, 0)?),
                };
                (kind, index, arg)
            }
            What::Call(kind, target) => {
                let (index, arg) = self.expr(target, 0)?;
                (kind, index, arg)
            }
            What::Choice(variants) => {
                let variants = self.variants(variants);
                (SiteKind::Choice, self.emitter.template(here, &variants)?, 0)
            }
            What::Return => (SiteKind::Choice, self.emitter.return_template(here)?, 0),
            What::Retpoline(retpoline) => (SiteKind::Choice, self.emitter.retpoline_template(retpoline)?, 0),
            What::Lock => (SiteKind::Choice, self.emitter.lock_template()?, 0),
            What::Jump(kind, distance) => (kind, 0, distance),
            What::Ftrace => (SiteKind::Ftrace, 0, 0),
        };
        Ok(SiteDef { offset: site.offset, kind, index, arg })
    }

    fn region(&mut self, module: u32, region: Region) -> Result<RegionDef> {
        let base = self.vars[&region.image.var];
        let kind = if region.image.block == Block::Text { RegionKind::ModuleText } else { RegionKind::ModuleInit };
        let sites = region.sites.into_iter().map(|s| self.site(base, s)).collect::<Result<_>>()?;
        Ok(RegionDef { module, kind, base: base as u64, bytes: region.image.bytes, sites, symbols: region.symbols })
    }
}
