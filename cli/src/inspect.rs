//! Showing an approval to people
use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, bail};
use secvisor_approval::PAGE;
use secvisor_approval::pages::Pages;
use secvisor_approval::view::{Launch, View};
use secvisor_approval::wire::{KERNEL, NONE, Region, RegionKind, Site, SiteKind, Symbol, VarClass, Variant, cond};
use serde::Serialize;

use crate::bytes::hex;
use crate::check::{bytes, placed, sites};
use crate::count::count;
use crate::gather::OWN_CONDITIONS;

/// An opened approval.
pub struct Approval<'a> {
    /// Parts needed to start the kernel.
    pub launch: Launch<'a>,
    /// Everything else.
    pub view: View<'a>,
    /// The pages.
    pub pages: Pages<'a>,
}

/// The whole approval in figures.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    release: String,
    command_line: String,
    image_va: String,
    image_physical: String,
    image_bytes: u64,
    entry_offset: String,
    data_runs: usize,
    data_bytes: u64,
    relocations: usize,
    kernel: Part,
    trampoline: Part,
    tracers: Part,
    modules: usize,
    module_code: Part,
    templates: usize,
    expressions: usize,
}

/// Code of the kernel, of the AP trampoline, of the tracers or of the modules.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Part {
    regions: usize,
    pages: usize,
    symbols: usize,
    sites: BTreeMap<&'static str, usize>,
}

/// A region of code.
#[derive(Clone, Debug, Serialize)]
pub struct RegionInfo {
    kind: &'static str,
    base: String,
    pages: u32,
    symbols: u32,
    sites: usize,
}

/// A module.
#[derive(Clone, Debug, Serialize)]
pub struct ModuleInfo {
    name: String,
    variables: Vec<&'static str>,
    regions: Vec<RegionInfo>,
    sites: BTreeMap<&'static str, usize>,
}

/// A site with all it may hold.
#[derive(Clone, Debug, Serialize)]
pub struct SiteInfo {
    address: String,
    symbol: String,
    kind: &'static str,
    approved: String,
    values: Vec<Value>,
}

/// One value of a site.
#[derive(Clone, Debug, Serialize)]
pub struct Value {
    condition: String,
    bytes: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    target: String,
}

/// Some of the code, with its sites.
#[derive(Clone, Debug, Serialize)]
pub struct Listing {
    title: String,
    sites: Vec<SiteInfo>,
}

impl Approval<'_> {
    /// The release the approval is for.
    pub fn release(&self) -> &str {
        self.view.name(self.view.info.release)
    }

    /// The whole approval in figures.
    pub fn summary(&self) -> Summary {
        let v = &self.view;
        let [mut kernel, mut trampoline, mut tracers, mut module_code] = [(); 4].map(|()| Part::default());
        for region in v.regions.iter() {
            let part = match region.module {
                NONE => &mut kernel,
                m if is_trampoline(v, m) => &mut trampoline,
                m if is_tracer(v, m) => &mut tracers,
                _ => &mut module_code,
            };
            part.regions += 1;
            part.pages += region.pages as usize;
            part.symbols += region.symbols as usize;
            self.count(&region, &mut part.sites);
        }
        Summary {
            release: self.release().to_owned(),
            command_line: v.name(v.info.cmdline).to_owned(),
            image_va: format!("{:#x}", v.info.image_va),
            image_physical: format!("{:#x}", v.info.image_phys),
            image_bytes: v.info.image_span,
            entry_offset: format!("{:#x}", v.info.entry_offset),
            data_runs: self.launch.runs.len(),
            data_bytes: self.launch.runs.iter().map(|r| r.len).sum(),
            relocations: self.launch.relocs.len(),
            kernel,
            trampoline,
            tracers,
            modules: modules(v),
            module_code,
            templates: v.templates.len(),
            expressions: v.exprs.len(),
        }
    }

    fn count(&self, region: &Region, into: &mut BTreeMap<&'static str, usize>) {
        for (_, site) in sites(&self.view, region) {
            *into.entry(self.kind(&site)).or_default() += 1;
        }
    }

    /// What people call a site.
    fn kind(&self, site: &Site) -> &'static str {
        match site.kind() {
            Some(SiteKind::Choice) => self.choice_kind(site),
            Some(SiteKind::Abs32 | SiteKind::Rel32 | SiteKind::Abs64 | SiteKind::Segment) => "relocated field",
            Some(SiteKind::Jump2 | SiteKind::Jump5) => "jump label",
            Some(SiteKind::Ftrace) => "function entry",
            Some(SiteKind::StaticCall | SiteKind::StaticJump) => "static call",
            Some(SiteKind::Trampoline) => "static call trampoline",
            Some(SiteKind::Const) => "run-time constant",
            Some(SiteKind::FtraceCall) => "ftrace call",
            None => "unknown",
        }
    }

    fn choice_kind(&self, site: &Site) -> &'static str {
        let variants: Vec<Variant> = self.variants(site).collect();
        let has = |c: u16| variants.iter().any(|v| v.cond == c);
        let features = variants.iter().any(|v| v.cond & !cond::NOT < cond::SPECIAL);
        match () {
            () if features => "alternative",
            () if has(cond::INDIRECT_PLAIN) => "retpoline",
            () if has(cond::RETURN_PLAIN) => "return",
            () if has(cond::UNIPROCESSOR) => "LOCK prefix",
            () if self.view.site_len(site) == 4 && variants[0].cond == cond::BOOT_ONLY => "ENDBR",
            () => "direct call",
        }
    }

    fn variants(&self, site: &Site) -> impl Iterator<Item = Variant> + '_ {
        let t = self.view.templates.at(site.index() as usize);
        self.view.variants.range(t.first_variant as usize, t.variants as usize)
    }

    fn region_info(&self, region: &Region) -> RegionInfo {
        let kernel = region.module == NONE;
        RegionInfo {
            kind: match RegionKind::new(region.kind) {
                Some(RegionKind::KernelText) => "kernel text",
                Some(RegionKind::KernelInit) => "kernel init text",
                Some(RegionKind::ModuleText) => "text",
                Some(RegionKind::ModuleInit) => "init text",
                Some(RegionKind::Tracer) => "tracer",
                None => "unknown",
            },
            base: if kernel { format!("{:#x}", region.base) } else { "chosen by Linux".to_owned() },
            pages: region.pages,
            symbols: region.symbols,
            sites: sites(&self.view, region).count(),
        }
    }

    fn module_name(&self, region: &Region) -> &str {
        match region.module {
            NONE => "",
            m => self.view.name(self.view.modules.at(m as usize).name),
        }
    }

    /// A module by name; `-` and `_` are the same.
    pub fn module(&self, name: &str) -> Result<ModuleInfo> {
        let wanted = name.replace('-', "_");
        let v = &self.view;
        let found = v.modules.iter().find(|m| v.name(m.name) == wanted);
        let module = found.with_context(|| format!("the approval has no module {wanted}"))?;
        let regions: Vec<Region> = v.regions.range(module.first_region as usize, module.regions as usize).collect();
        let mut counts = BTreeMap::new();
        regions.iter().for_each(|r| self.count(r, &mut counts));
        let class = |c: u32| match VarClass::new(c) {
            Some(VarClass::Code) => "code",
            Some(VarClass::Data) => "data",
            Some(VarClass::PerCpu) => "per-CPU data",
            Some(VarClass::Low) => "code below 1 MiB",
            None => "unknown",
        };
        let vars = v.vars.range(module.first_var as usize, module.vars as usize);
        Ok(ModuleInfo {
            name: wanted,
            variables: vars.map(|v| class(v.class)).collect(),
            regions: regions.iter().map(|r| self.region_info(r)).collect(),
            sites: counts,
        })
    }

    /// The page that holds an address: a kernel address, or an offset in the text of `module`.
    pub fn page(&self, module: Option<&str>, address: u64) -> Result<Listing> {
        let v = &self.view;
        let wanted = module.map(|m| m.replace('-', "_"));
        let name = wanted.as_deref().unwrap_or("");
        let base = |r: &Region| if r.module == NONE { r.base } else { 0 };
        let holds = |r: &Region| {
            let offset = address.wrapping_sub(base(r));
            self.module_name(r) == name && offset < r.pages as u64 * PAGE as u64
        };
        let region = v.regions.iter().find(holds).context("the approval has no such page")?;
        let start = address & !0xfff;
        let page = region.first_page as u64 + (start - base(&region)) / PAGE as u64;
        let title = format!("page {page} of the approval, {}", self.place(&region, start));
        Ok(self.listing(title, &region, start, start + PAGE as u64))
    }

    /// Everything called `name`.
    pub fn symbol(&self, name: &str) -> Result<Vec<Listing>> {
        let v = &self.view;
        let mut out = Vec::new();
        for region in v.regions.iter() {
            let base = if region.module == NONE { region.base } else { 0 };
            let all: Vec<Symbol> = v.symbols.range(region.first_symbol as usize, region.symbols as usize).collect();
            for symbol in all.iter().filter(|s| v.symbol_name(s).is(name)) {
                let next = all.iter().map(|s| s.offset).find(|o| *o > symbol.offset);
                let end = next.unwrap_or(region.pages * PAGE as u32);
                let kind = if symbol.is_function() { "function" } else { "label" };
                let place = self.place(&region, base + symbol.offset as u64);
                let title = format!("{kind} {place}, {} bytes", end - symbol.offset);
                let (from, to) = (base + symbol.offset as u64, base + end as u64);
                out.push(self.listing(title, &region, from, to));
            }
        }
        if out.is_empty() {
            bail!("the approval has no symbol {name}");
        }
        Ok(out)
    }

    fn listing(&self, title: String, region: &Region, from: u64, to: u64) -> Listing {
        let inside = sites(&self.view, region).filter(|(a, _)| (from..to).contains(a));
        Listing { title, sites: inside.map(|(a, s)| self.site(region, a, &s)).collect() }
    }

    /// Address and symbol: `ffffffff81000010 <name+0x10>`, or `xfs+10 <name>` for modules.
    fn place(&self, region: &Region, address: u64) -> String {
        let at = if region.module == NONE {
            format!("{address:x}")
        } else {
            let init = if region.kind == RegionKind::ModuleInit as u32 { " init" } else { "" };
            format!("{}{init}+{address:x}", self.module_name(region))
        };
        match self.symbol_of(region, address) {
            s if s.is_empty() => at,
            s => format!("{at} <{s}>"),
        }
    }

    fn symbol_of(&self, region: &Region, address: u64) -> String {
        let base = if region.module == NONE { region.base } else { 0 };
        let offset = address.wrapping_sub(base) as u32;
        match self.view.symbol_at(region, offset) {
            Some(s) if s.offset == offset => self.view.symbol_name(&s).to_string(),
            Some(s) => format!("{}+{:#x}", self.view.symbol_name(&s), offset - s.offset),
            None => String::new(),
        }
    }

    /// What a kernel address is called.
    fn kernel_symbol(&self, address: u64) -> String {
        let holds = |r: &Region| r.module == NONE && address.wrapping_sub(r.base) < r.pages as u64 * PAGE as u64;
        match self.view.regions.iter().find(holds) {
            Some(region) => self.symbol_of(&region, address),
            None => format!("{address:x}"),
        }
    }

    fn expr(&self, index: usize, addend: i32) -> String {
        let v = &self.view;
        let e = v.exprs.at(index);
        let value = e.value.wrapping_add_signed(addend as i64);
        match e.var {
            KERNEL => return self.kernel_symbol(value),
            NONE => return format!("{value:x}"),
            _ => {}
        }
        let var = v.vars.at(e.var as usize);
        let module = v.modules.at(var.module as usize);
        let kind = match VarClass::new(var.class) {
            Some(VarClass::Code) => "code",
            Some(VarClass::Data) => "data",
            Some(VarClass::PerCpu) => "percpu",
            Some(VarClass::Low) => "low",
            None => "?",
        };
        let sign = if (value as i64) < 0 { "-" } else { "+" };
        let distance = (value as i64).unsigned_abs();
        format!("{} {kind}{}{sign}{distance:#x}", v.name(module.name), e.var - module.first_var)
    }

    fn site(&self, region: &Region, address: u64, site: &Site) -> SiteInfo {
        let offset = if region.module == NONE { address - region.base } else { address };
        let first_expr = match region.module {
            NONE => 0,
            m => self.view.modules.at(m as usize).first_expr as usize,
        };
        let target = || self.expr(first_expr + site.index() as usize, site.arg());
        // Counted from the byte behind the field, which is mostly the instruction's last.
        let ahead = || self.expr(first_expr + site.index() as usize, site.arg().wrapping_add(4));
        let value = |condition: &str, bytes: &str, target: String| Value {
            condition: condition.to_owned(),
            bytes: bytes.to_owned(),
            target,
        };
        let any = |what: &str| value("later", what, String::new());
        let jump = |nop: &str, opcode: &str, len: u64| {
            let to = address.wrapping_add(len).wrapping_add_signed(site.arg() as i64);
            vec![value("off", nop, String::new()), value("on", opcode, self.symbol_of(region, to))]
        };
        let values = match site.kind() {
            Some(SiteKind::Choice) => self.variants(site).map(|v| self.variant(region, address, site, &v)).collect(),
            Some(SiteKind::Abs32) => vec![value("loaded", "absolute, 4 bytes", target())],
            Some(SiteKind::Rel32) => vec![value("loaded", "relative, 4 bytes", ahead())],
            Some(SiteKind::Abs64) => vec![value("loaded", "absolute, 8 bytes", target())],
            Some(SiteKind::Segment) => vec![value("loaded", "segment, 2 bytes", target())],
            Some(SiteKind::Jump2) => jump("66 90", "eb ..", 2),
            Some(SiteKind::Jump5) => jump("0f 1f 44 00 00", "e9 ..", 5),
            Some(SiteKind::Ftrace) => vec![
                value("link-time", "e8 ..", self.kernel_symbol(self.view.info.fentry)),
                value("off", "0f 1f 44 00 00", String::new()),
                value("traced", "e8 ..", self.kernel_symbol(self.view.info.ftrace_caller)),
                value("traced", "e8 ..", self.kernel_symbol(self.view.info.ftrace_regs_caller)),
            ],
            Some(SiteKind::FtraceCall) => vec![any("e8 to any function")],
            Some(SiteKind::StaticCall) => vec![
                value("link-time", "e8 ..", target()),
                any("e8 to any function"),
                any("0f 1f 44 00 00"),
                any("2e 2e 2e 31 c0"),
            ],
            Some(SiteKind::StaticJump | SiteKind::Trampoline) => {
                vec![value("link-time", "e9 ..", target()), any("e9 to any function"), any("a return")]
            }
            Some(SiteKind::Const) => {
                let name = self.view.name(self.view.consts.at(site.index() as usize).name);
                vec![value("boot", "chosen by Linux", name.to_owned())]
            }
            None => Vec::new(),
        };
        SiteInfo {
            address: format!("{address:x}"),
            symbol: self.symbol_of(region, address),
            kind: self.kind(site),
            approved: hex(&bytes(&self.pages, region, offset, self.view.site_len(site))),
            values,
        }
    }

    fn variant(&self, region: &Region, address: u64, site: &Site, variant: &Variant) -> Value {
        let kernel = region.module == NONE;
        let bytes = match placed(&self.view, address, site, variant).filter(|_| kernel) {
            Some(bytes) => hex(&bytes),
            None => {
                let fixes = self.view.fixes.range(variant.first_fix as usize, variant.fixes as usize);
                let mut text: Vec<String> = self
                    .view
                    .variant_bytes(variant, self.view.site_len(site))
                    .iter()
                    .map(|b| format!("{b:02x}"))
                    .collect();
                for f in fixes {
                    text[f.pos as usize..f.pos as usize + 4].fill("..".to_owned());
                }
                text.join(" ")
            }
        };
        let fixes = self.view.fixes.range(variant.first_fix as usize, variant.fixes as usize);
        let targets: Vec<String> = fixes.map(|f| self.expr(f.expr as usize, f.addend)).collect();
        Value { condition: condition(variant.cond), bytes, target: targets.join(", ") }
    }
}

/// Whether a module stands for the AP trampoline.
fn is_trampoline(view: &View<'_>, module: u32) -> bool {
    let module = view.modules.at(module as usize);
    let mut vars = view.vars.range(module.first_var as usize, module.vars as usize);
    vars.any(|v| v.class == VarClass::Low as u32)
}

/// Whether a module stands for a copy of ftrace's entry code.
fn is_tracer(view: &View<'_>, module: u32) -> bool {
    let module = view.modules.at(module as usize);
    let mut regions = view.regions.range(module.first_region as usize, module.regions as usize);
    regions.any(|r| r.kind == RegionKind::Tracer as u32)
}

/// Number of modules, not counting the AP trampoline and tracers.
pub fn modules(view: &View<'_>) -> usize {
    (0..view.modules.len() as u32).filter(|m| !is_trampoline(view, *m) && !is_tracer(view, *m)).count()
}

/// What a condition is called.
pub fn condition(raw: u16) -> String {
    let id = raw & !cond::NOT;
    let name = match id {
        cond::BASE => "otherwise".to_owned(),
        cond::INDIRECT_PLAIN => "plain indirect branches".to_owned(),
        cond::INDIRECT_LFENCE => "LFENCE before indirect branches".to_owned(),
        cond::RETURN_PLAIN => "plain returns".to_owned(),
        cond::RETURN_RETBLEED => "returns against Retbleed".to_owned(),
        cond::RETURN_SRSO => "returns against SRSO".to_owned(),
        cond::RETURN_SRSO_ALIAS => "returns against SRSO, aliased".to_owned(),
        cond::RETURN_ITS => "returns against ITS".to_owned(),
        cond::UNIPROCESSOR => "one CPU".to_owned(),
        cond::BOOT_ONLY => "while booting".to_owned(),
        OWN_CONDITIONS..cond::SPECIAL => format!("choice {} of this site", id - OWN_CONDITIONS),
        feature => format!("CPU feature {}*32+{}", feature / 32, feature % 32),
    };
    if raw & cond::NOT != 0 { format!("not {name}") } else { name }
}

fn figures(out: &mut String, part: &Part) {
    let [regions, pages] = [count(part.regions, "region"), count(part.pages, "page")];
    let symbols = count(part.symbols, "symbol");
    let sites = count(part.sites.values().sum(), "patch site");
    let _ = writeln!(out, "  {regions}, {pages}, {symbols}\n  {sites}");
    for (kind, count) in &part.sites {
        let _ = writeln!(out, "    {count:>9}  {kind}");
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = String::new();
        let _ = writeln!(out, "Approval for Linux {}", self.release);
        let _ = writeln!(
            out,
            "  image at {} (physical {}), {} bytes",
            self.image_va, self.image_physical, self.image_bytes
        );
        let _ = writeln!(
            out,
            "  entry at +{}, {} bytes of data in {} runs, {} relocations",
            self.entry_offset, self.data_bytes, self.data_runs, self.relocations
        );
        let _ = writeln!(out, "  adds to the command line: {}", self.command_line);
        let _ = writeln!(out, "  {} templates, {} expressions", self.templates, self.expressions);
        let _ = writeln!(out, "Kernel");
        figures(&mut out, &self.kernel);
        let _ = writeln!(out, "AP trampoline");
        figures(&mut out, &self.trampoline);
        let _ = writeln!(out, "Tracers");
        figures(&mut out, &self.tracers);
        let _ = writeln!(out, "{}", count(self.modules, "module"));
        if self.modules > 0 {
            figures(&mut out, &self.module_code);
        }
        f.write_str(out.trim_end())
    }
}

impl std::fmt::Display for ModuleInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Module {}", self.name)?;
        if !self.variables.is_empty() {
            write!(f, "\n  placed by Linux: {}", self.variables.join(", "))?;
        }
        for r in &self.regions {
            let [pages, symbols] = [count(r.pages as usize, "page"), count(r.symbols as usize, "symbol")];
            write!(f, "\n  {}: {pages}, {symbols}, {}", r.kind, count(r.sites, "patch site"))?;
        }
        self.sites.iter().try_for_each(|(kind, count)| write!(f, "\n    {count:>9}  {kind}"))
    }
}

impl std::fmt::Display for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.title, count(self.sites.len(), "patch site"))?;
        for s in &self.sites {
            write!(f, "\n{} <{}> {}: {}", s.address, s.symbol, s.kind, s.approved)?;
            for v in &s.values {
                write!(f, "\n    {:<32}  {}", v.condition, v.bytes)?;
                if !v.target.is_empty() {
                    write!(f, "  -> {}", v.target)?;
                }
            }
        }
        Ok(())
    }
}
