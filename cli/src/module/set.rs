//! All modules of an approval
use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map, hash_map};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use object::elf;
use rayon::prelude::*;
use secvisor_approval::build::{RegionDef, SiteDef, SymbolDef};
use secvisor_approval::wire::{RegionKind, SiteKind, VarClass};

use super::image::{Image, Width};
use super::ko::{ENDINGS, Home, Ko};
use super::layout::{Block, Layout, Loader};
use super::link::{Linked, block_of, exports, var};
use super::sites::{Site, What, find};
use crate::code::{Address, Code, Variant};
use crate::emit::Emitter;
use crate::kernel::Kernel;
use crate::trampoline;

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
    /// Numbers of the modules its code refers to.
    uses: BTreeSet<u32>,
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
    for path in paths {
        let path = path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?;
        if !path.is_dir() {
            found.insert(path);
            continue;
        }
        ensure!(below(&path, &mut found)? > 0, "there are no modules below {}", path.display());
    }
    Ok(found.into_iter().collect())
}

/// Adds the module files below a directory, and counts them. Links to directories are not followed: a tree's
/// `build` and `source` lead elsewhere.
fn below(directory: &Path, found: &mut BTreeSet<PathBuf>) -> Result<usize> {
    let mut count = 0;
    let entries = std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            count += below(&entry.path(), found)?;
        } else if name.to_str().is_some_and(|n| ENDINGS.iter().any(|e| n.ends_with(e))) {
            found.insert(entry.path());
            count += 1;
        }
    }
    Ok(count)
}

/// A module that has been read and laid out.
struct Placed {
    ko: Ko,
    layout: Layout,
}

impl Set {
    /// Reads and prepares module files. What is wrong with one module leaves that one out, and those that use it.
    pub fn load(files: &[PathBuf], kernel: &Kernel<'_>) -> Result<Self> {
        let (placed, mut left_out) = read(files, kernel)?;
        let mut reasons = vec![None; placed.len()];
        let table = export_table(&placed, kernel, &mut reasons);
        let export = |name: &str| {
            let own = kernel.symbols.export(name);
            own.or_else(|| table.get(name).copied())
        };
        let numbers = (0..placed.len() as u32).into_par_iter();
        let prepared: Vec<Result<Module>> =
            placed.par_iter().zip(numbers).map(|(p, number)| prepare(p, number, kernel, &export)).collect();
        let mut modules = Vec::with_capacity(placed.len());
        for (result, reason) in prepared.into_iter().zip(&mut reasons) {
            if let Err(e) = &result {
                reason.get_or_insert(format!("{e:#}"));
            }
            modules.push(result.ok());
        }
        leave_out_users(&modules, &placed, &mut reasons);
        for (p, reason) in placed.iter().zip(&reasons) {
            if let Some(reason) = reason.clone() {
                left_out.push(LeftOut { name: p.ko.name.clone(), path: p.ko.path.clone(), reason });
            }
        }
        left_out.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
        let kept = modules.into_iter().zip(&reasons).filter(|(_, reason)| reason.is_none());
        Ok(Self { modules: kept.filter_map(|(module, _)| module).collect(), left_out })
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
            module.each_address(|a| used.extend(a.is_variable().then_some(a.var)));
            used.extend(module.regions.iter().map(|r| r.image.var));
        }
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
}

fn class(block: Block) -> VarClass {
    match block {
        Block::Text | Block::InitText => VarClass::Code,
        Block::PerCpu => VarClass::PerCpu,
        Block::Data | Block::RoData | Block::RoAfterInit | Block::InitData | Block::InitRoData => VarClass::Data,
    }
}

fn place(path: &Path, loader: &Loader, release: &str) -> Result<Placed> {
    let ko = Ko::read(path)?;
    let own = ko.vermagic.split(' ').next().unwrap_or("");
    ensure!(ko.name != trampoline::NAME, "its name is that of the AP trampoline");
    ensure!(own == release, "it is a module of Linux {own}, the kernel is {release}");
    let layout = Layout::new(&ko, loader)?;
    Ok(Placed { ko, layout })
}

/// Reads all files, in parallel. The modules are sorted by name.
fn read(files: &[PathBuf], kernel: &Kernel<'_>) -> Result<(Vec<Placed>, Vec<LeftOut>)> {
    let loader = Loader::of(kernel)?;
    let release = &kernel.setup.release;
    let results: Vec<Result<Placed>> = files.par_iter().map(|path| place(path, &loader, release)).collect();
    let mut left_out = Vec::new();
    let mut by_name: BTreeMap<String, Placed> = BTreeMap::new();
    for (path, result) in files.iter().zip(results) {
        match result {
            Err(reason) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                left_out.push(LeftOut { name, path: path.clone(), reason: format!("{reason:#}") });
            }
            Ok(new) => match by_name.entry(new.ko.name.clone()) {
                btree_map::Entry::Vacant(slot) => drop(slot.insert(new)),
                btree_map::Entry::Occupied(known) if known.get().ko.same(&new.ko)? => {}
                btree_map::Entry::Occupied(known) => {
                    let (a, b) = (known.get().ko.path.display(), path.display());
                    bail!("two different modules are called {}: {a} and {b}", new.ko.name);
                }
            },
        }
    }
    Ok((by_name.into_values().collect(), left_out))
}

/// Prepares one module, whose undefined symbols are all at one place.
#[cfg(test)]
pub(super) fn try_one(path: &Path, data: Vec<u8>, loader: &Loader, kernel: &Kernel<'_>) -> Result<()> {
    let ko = Ko::parse(path, data)?;
    let layout = Layout::new(&ko, loader)?;
    let placed = [Placed { ko, layout }];
    let mut reasons = [None];
    export_table(&placed, kernel, &mut reasons);
    let export = |name: &str| Some(kernel.symbols.export(name).unwrap_or(Address::kernel(0xffff_ffff_8000_0000)));
    let modules = vec![prepare(&placed[0], 0, kernel, &export)?];
    Set { modules, left_out: Vec::new() }.emit(&mut kernel.emitter())
}

/// What the modules export, by name. Linux loads no module that exports what is exported already.
fn export_table<'p>(
    placed: &'p [Placed],
    kernel: &Kernel<'_>,
    reasons: &mut [Option<String>],
) -> HashMap<&'p str, Address> {
    let mut table = HashMap::new();
    for ((number, p), reason) in placed.iter().enumerate().zip(reasons) {
        let mut add = |name, symbol, addend| {
            let address = export(p, number as u32, symbol, addend).with_context(|| format!("its export {name}"))?;
            ensure!(kernel.symbols.export(name).is_none(), "it exports {name}, as the kernel does");
            match table.entry(name) {
                hash_map::Entry::Vacant(slot) => drop(slot.insert(address)),
                hash_map::Entry::Occupied(first) => {
                    let other = &placed[block_of(first.get().var).0 as usize].ko.name;
                    bail!("it exports {name}, as module {other} does");
                }
            }
            Ok(())
        };
        let all = exports(&p.ko).and_then(|l| l.into_iter().try_for_each(|(n, s, a)| add(n, s, a)));
        *reason = all.err().map(|e| format!("{e:#}"));
    }
    table
}

/// Where an export is.
fn export(placed: &Placed, number: u32, symbol: usize, addend: i64) -> Result<Address> {
    let symbol = placed.ko.symbols.get(symbol).context("has no symbol")?;
    let Home::Section(section) = symbol.home else { bail!("is in no section") };
    let place = placed.layout.sections[section].context("is not loaded")?;
    let value = place.offset.wrapping_add(symbol.value);
    Ok(Address { var: var(number, place.block), value }.plus(addend))
}

/// A module that uses one that is left out could never be loaded.
fn leave_out_users(modules: &[Option<Module>], placed: &[Placed], reasons: &mut [Option<String>]) {
    loop {
        let before = reasons.iter().flatten().count();
        for (i, module) in modules.iter().enumerate().filter_map(|(i, m)| Some((i, m.as_ref()?))) {
            let missing = module.uses.iter().find(|n| reasons[**n as usize].is_some() && **n as usize != i);
            if let Some(missing) = missing.filter(|_| reasons[i].is_none()) {
                reasons[i] = Some(format!("it uses {}, which is left out", placed[*missing as usize].ko.name));
            }
        }
        if reasons.iter().flatten().count() == before {
            return;
        }
    }
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
    let mut module = Module { name: placed.ko.name.clone(), number, uses: BTreeSet::new(), regions };
    let mut uses = BTreeSet::new();
    module.each_address(|a| {
        if a.is_variable() {
            uses.insert(block_of(a.var).0);
        }
    });
    module.uses = uses;
    Ok(module)
}

/// The names in a block's code.
fn symbols(linked: &Linked<'_>, image: &Image) -> Vec<SymbolDef> {
    let mut found = Vec::new();
    for symbol in &linked.ko.symbols {
        let Home::Section(section) = symbol.home else { continue };
        let place = linked.layout.sections[section].filter(|p| p.block == image.block);
        let name = linked.ko.name_of(symbol);
        // Padding before functions has names of its own, `__pfx_<function>`.
        let padding = name.starts_with("__pfx_");
        let unnamed = name.is_empty() || padding || matches!(symbol.kind, elf::STT_SECTION | elf::STT_FILE);
        let (Some(place), true, false) = (place, linked.ko.sections[section].is_code(), unnamed) else { continue };
        let offset = place.offset.wrapping_add(symbol.value);
        if offset < image.bytes.len() as u64 {
            // `.cold` parts are entered by jumps from their function only.
            let function = symbol.kind == elf::STT_FUNC && !name.ends_with(".cold");
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
        match address.is_variable() {
            false => address,
            true => Address { var: self.vars[&address.var], ..address },
        }
    }

    /// An expression as a site stores it, and what is added to it. Offsets in a block go into the latter, so that
    /// a module needs few expressions.
    fn expr(&mut self, target: Address, addend: i64) -> Result<(u16, i32)> {
        let target = self.address(target);
        let (value, addend) = match target.is_variable() {
            false => (target.value, addend),
            true => (0, addend.wrapping_add(target.value as i64)),
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
