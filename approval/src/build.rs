//! Writing an approval
//!
//! The host tool declares modules and their variables first (so that any of them can refer to any other),
//! then adds regions. The same calls in the same order give the same bytes.
use std::collections::HashMap;
use std::fmt;

use crate::PAGE;
use crate::open::checksum;
use crate::pack::{Packed, probes};
use crate::wire::*;

/// A limit of the format that the input exceeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// More of these than the format can number.
    TooMany(&'static str),
    /// A site leaves its region; the region's name and the offset.
    Outside(String, u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany(what) => write!(f, "too many {what} for one approval"),
            Self::Outside(region, at) => write!(f, "a patch site lies outside of {region}, at offset {at:#x}"),
        }
    }
}

impl std::error::Error for Error {}

/// A value of a [`TemplateDef`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VariantDef {
    /// A condition, see [`cond`].
    pub cond: u16,
    /// The bytes, as long as the site.
    pub bytes: Vec<u8>,
    /// Fields that depend on where the site is.
    pub fixes: Vec<FixDef>,
}

/// A field of a [`VariantDef`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FixDef {
    /// Position in the variant.
    pub pos: u8,
    /// What to write.
    pub kind: u8,
    /// Global expression index (from [`Builder::expr`]).
    pub expr: u32,
    /// Added to the expression.
    pub addend: i32,
}

/// What a choice site may hold. The first variant is the link-time form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TemplateDef(pub Vec<VariantDef>);

/// A site, placed by its offset in the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteDef {
    /// Offset in the region, in bytes.
    pub offset: u64,
    /// How it may differ.
    pub kind: SiteKind,
    /// Template, constant or expression ([`Builder::local_expr`]), by kind.
    pub index: u16,
    /// Depends on the kind.
    pub arg: i32,
}

/// A symbol, placed by its offset in the region.
#[derive(Clone, Debug)]
pub struct SymbolDef {
    /// Offset in the region, in bytes.
    pub offset: u32,
    /// Name.
    pub name: String,
    /// Whether it is a function that may be called.
    pub function: bool,
}

/// A region with all it holds.
pub struct RegionDef {
    /// Index of the module, or [`NONE`].
    pub module: u32,
    /// What it is.
    pub kind: RegionKind,
    /// Link-time address (kernel) or variable (module).
    pub base: u64,
    /// Reference bytes (link-time form, site bytes included); zeros follow up to the end of the last page.
    pub bytes: Vec<u8>,
    /// Sites in any order; they must not overlap.
    pub sites: Vec<SiteDef>,
    /// Symbols in any order.
    pub symbols: Vec<SymbolDef>,
}

/// An approval in the making.
#[derive(Default)]
pub struct Builder {
    runs: Vec<Run>,
    data: Vec<u8>,
    relocs: Vec<Reloc>,
    regions: Vec<Region>,
    modules: Vec<Module>,
    vars: Vec<Var>,
    exprs: Vec<Expr>,
    pages: Vec<Page>,
    sites: Vec<Site>,
    templates: Vec<Template>,
    variants: Vec<Variant>,
    fixes: Vec<Fix>,
    bytes: Vec<u8>,
    consts: Vec<Const>,
    symbols: Vec<Symbol>,
    names: Vec<u8>,
    packed: Vec<u8>,
    code: Vec<u8>,
    known_names: HashMap<String, u32>,
    known_exprs: HashMap<(u32, u64), u32>,
    known_templates: HashMap<TemplateDef, u16>,
    known_bytes: HashMap<Vec<u8>, u32>,
    first_expr: u32,
}

impl Builder {
    /// An empty approval.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores a string once; its offset.
    pub fn name(&mut self, name: &str) -> u32 {
        if let Some(at) = self.known_names.get(name) {
            return *at;
        }
        let at = self.names.len() as u32;
        self.names.extend_from_slice(name.as_bytes());
        self.names.push(0);
        self.known_names.insert(name.to_owned(), at);
        at
    }

    /// Adds bytes of the kernel image that are not code.
    pub fn run(&mut self, image_offset: u64, bytes: &[u8]) {
        let data_offset = self.data.len() as u64;
        self.runs.push(Run { image_offset, len: bytes.len() as u64, data_offset });
        self.data.extend_from_slice(bytes);
        self.data.resize(self.data.len().next_multiple_of(16), 0);
    }

    /// Adds a field that moves with the image. In any order; fields must not overlap.
    pub fn reloc(&mut self, image_offset: u32, kind: RelocKind) {
        self.relocs.push(Reloc::new(image_offset, kind));
    }

    /// Declares a module; its index and the index of its first variable. Variable 0 is the base of its text.
    pub fn module(&mut self, name: &str, classes: &[VarClass]) -> (u32, u32) {
        let (module, first_var) = (self.modules.len() as u32, self.vars.len() as u32);
        let name = self.name(name);
        self.vars.extend(classes.iter().map(|c| Var { module, class: *c as u32 }));
        self.modules.push(Module { name, first_var, vars: classes.len() as u32, ..Module::default() });
        (module, first_var)
    }

    /// Begins a module's contents: its expressions are numbered from here, its regions follow.
    pub fn begin_module(&mut self, module: u32) {
        self.known_exprs.clear();
        self.first_expr = self.exprs.len() as u32;
        let entry = &mut self.modules[module as usize];
        entry.first_expr = self.first_expr;
        entry.first_region = self.regions.len() as u32;
    }

    /// Stores an expression once per module (or for the kernel); its index among all.
    pub fn expr(&mut self, var: u32, value: u64) -> u32 {
        let exprs = &mut self.exprs;
        *self.known_exprs.entry((var, value)).or_insert_with(|| {
            exprs.push(Expr { var, value });
            exprs.len() as u32 - 1
        })
    }

    /// As [`Self::expr`]; its index as a site stores it.
    pub fn local_expr(&mut self, var: u32, value: u64) -> Result<u16, Error> {
        let local = self.expr(var, value) - self.first_expr;
        u16::try_from(local).map_err(|_| Error::TooMany("expressions in a module"))
    }

    /// Stores a template once.
    pub fn template(&mut self, def: &TemplateDef) -> Result<u16, Error> {
        if let Some(index) = self.known_templates.get(def) {
            return Ok(*index);
        }
        let index = u16::try_from(self.templates.len()).map_err(|_| Error::TooMany("templates"))?;
        let len = def.0.first().map_or(0, |v| v.bytes.len());
        assert!((1..=MAX_SITE).contains(&len) && def.0.len() <= MAX_VARIANTS, "impossible template {def:?}");
        let first_variant = self.variants.len() as u32;
        for v in &def.0 {
            assert_eq!(v.bytes.len(), len, "a variant has another length than its site");
            let first_fix = self.fixes.len() as u32;
            self.fixes.extend(v.fixes.iter().map(|f| Fix {
                pos: f.pos,
                kind: f.kind,
                reserved: 0,
                expr: f.expr,
                addend: f.addend,
            }));
            let pool = &mut self.bytes;
            let bytes = *self.known_bytes.entry(v.bytes.clone()).or_insert_with(|| {
                pool.extend_from_slice(&v.bytes);
                (pool.len() - len) as u32
            });
            self.variants.push(Variant { cond: v.cond, fixes: v.fixes.len() as u16, first_fix, bytes });
        }
        self.templates.push(Template { first_variant, variants: def.0.len() as u16, len: len as u16 });
        self.known_templates.insert(def.clone(), index);
        Ok(index)
    }

    /// Declares a run-time constant.
    pub fn constant(&mut self, class: ConstClass, name: &str, link: u64) -> u16 {
        let name = self.name(name);
        self.consts.push(Const { class: class as u32, name, link });
        (self.consts.len() - 1) as u16
    }

    /// Adds a region behind those there are.
    pub fn region(&mut self, mut def: RegionDef) -> Result<(), Error> {
        def.bytes.resize(def.bytes.len().next_multiple_of(PAGE), 0);
        let pages = (def.bytes.len() / PAGE) as u32;
        def.sites.sort_by_key(|s| s.offset);
        let mut sites = def.sites.iter().peekable();
        let first_page = self.pages.len() as u32;
        // What the site reached last covers of the next page.
        let mut over = 0;
        for (number, bytes) in (0..).zip(def.bytes.as_chunks::<PAGE>().0) {
            let first_site = self.sites.len() as u32;
            let mut covered = Vec::from_iter(Some(0..over.min(PAGE)));
            over = over.saturating_sub(PAGE);
            while let Some(s) = sites.next_if(|s| s.offset / PAGE as u64 == number) {
                let (index, arg) = self.folded(s)?;
                let offset = (s.offset % PAGE as u64) as usize;
                self.sites.push(Site::new(offset as u16, s.kind, index, arg));
                let end = offset + self.site_len(s);
                covered.push(offset..end.min(PAGE));
                over = end.saturating_sub(PAGE);
            }
            let (probes, probes_at) = probes(bytes, &covered);
            let (at, packed) = (self.code.len() as u32, self.packed.len() as u32);
            self.pages.push(Page { first_site, at, packed, probes, probes_at });
            match (def.module != NONE).then(|| Packed::new(bytes, &covered)).flatten() {
                Some(Packed { block, fields }) => {
                    self.packed.extend(block);
                    self.code.extend(fields);
                }
                None => self.code.extend_from_slice(bytes),
            }
        }
        if let Some(s) = sites.next() {
            return Err(Error::Outside(format!("region {}", self.regions.len()), s.offset));
        }
        def.symbols.sort_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
        let first_symbol = self.symbols.len() as u32;
        for s in &def.symbols {
            let (stem, cold) = match s.name.strip_suffix(Symbol::COLD_END) {
                Some(stem) => (stem, Symbol::COLD),
                None => (&s.name[..], 0),
            };
            let function = if s.function { Symbol::FUNCTION } else { 0 };
            let name = self.name(stem) | cold | function;
            self.symbols.push(Symbol { offset: s.offset, name });
        }
        if def.module != NONE {
            self.modules[def.module as usize].regions += 1;
        }
        self.regions.push(Region {
            module: def.module,
            kind: def.kind as u32,
            first_page,
            pages,
            first_symbol,
            symbols: def.symbols.len() as u32,
            base: def.base,
        });
        if self.names.len() > Symbol::COLD as usize {
            return Err(Error::TooMany("bytes of names"));
        }
        if self.code.len().max(self.packed.len()) > u32::MAX as usize {
            return Err(Error::TooMany("bytes of code"));
        }
        Ok(())
    }

    /// A site's index and argument, of which the expression takes what a site has no room for.
    fn folded(&mut self, site: &SiteDef) -> Result<(u16, i32), Error> {
        let low = site.arg as i16;
        if !site.kind.has_expr() || low as i32 == site.arg {
            return Ok((site.index, site.arg));
        }
        let Expr { var, value } = self.exprs[self.first_expr as usize + site.index as usize];
        let index = self.local_expr(var, value.wrapping_add((site.arg as i64 - low as i64) as u64))?;
        Ok((index, low as i32))
    }

    fn site_len(&self, site: &SiteDef) -> usize {
        match site.kind {
            SiteKind::Choice => self.templates[site.index as usize].len as usize,
            SiteKind::Const => ConstClass::new(self.consts[site.index as usize].class).map_or(0, ConstClass::width),
            kind => kind.width(),
        }
    }

    /// The file.
    pub fn finish(mut self, info: Info) -> Vec<u8> {
        let (at, packed) = (self.code.len() as u32, self.packed.len() as u32);
        self.pages.push(Page { first_site: self.sites.len() as u32, at, packed, ..Page::default() });
        self.relocs.sort_by_key(Reloc::offset);
        let sections: [Vec<u8>; SECTIONS] = [
            encode(&self.runs),
            self.data,
            encode(&self.relocs),
            encode(&[info]),
            encode(&self.regions),
            encode(&self.modules),
            encode(&self.vars),
            encode(&self.exprs),
            encode(&self.pages),
            encode(&self.sites),
            encode(&self.templates),
            encode(&self.variants),
            encode(&self.fixes),
            self.bytes,
            encode(&self.consts),
            encode(&self.symbols),
            self.names,
            self.packed,
            self.code,
        ];
        let mut file = vec![0; HEADER_LEN];
        let mut runtime_offset = 0;
        for (i, section) in sections.iter().enumerate() {
            let align = if i == Section::Info as usize || i == Section::Code as usize { PAGE } else { 16 };
            file.resize(file.len().next_multiple_of(align), 0);
            if i == Section::Info as usize {
                runtime_offset = file.len() as u64;
            }
            let at = SECTIONS_OFFSET + 16 * i;
            let offset = file.len() as u64;
            file[at..at + 8].copy_from_slice(&offset.to_le_bytes());
            file[at + 8..at + 16].copy_from_slice(&(section.len() as u64).to_le_bytes());
            file.extend_from_slice(section);
        }
        let total = file.len() as u64;
        file[..8].copy_from_slice(&MAGIC);
        file[8..12].copy_from_slice(&VERSION.to_le_bytes());
        file[12..16].copy_from_slice(&(HEADER_LEN as u32).to_le_bytes());
        file[16..24].copy_from_slice(&total.to_le_bytes());
        file[RUNTIME_OFFSET..RUNTIME_OFFSET + 8].copy_from_slice(&runtime_offset.to_le_bytes());
        seal(&mut file);
        file
    }
}

/// Makes the checksum of an approval fit; for tests, one that was changed by hand, too.
pub fn seal(file: &mut [u8]) {
    let sum = checksum(file);
    file[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 8].copy_from_slice(&sum.to_le_bytes());
}

fn encode<T: Record>(records: &[T]) -> Vec<u8> {
    let mut out = vec![0; records.len() * T::SIZE];
    records.iter().zip(out.chunks_exact_mut(T::SIZE)).for_each(|(r, bytes)| r.store(bytes));
    out
}
