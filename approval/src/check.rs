//! The one pass that checks every index an approval stores
use crate::PAGE;
use crate::open::Error;
use crate::slide::Keeper;
use crate::view::{Launch, Table, View};
use crate::wire::*;

/// Fails with the index of the first record for which `ok` does not hold.
fn all<T: Record>(table: Table<'_, T>, section: Section, ok: impl Fn(&T) -> bool) -> Result<(), Error> {
    match table.iter().position(|r| !ok(&r)) {
        Some(index) => Err(Error::Record(section, index)),
        None => Ok(()),
    }
}

/// Whether `count` records from `first` lie within `len`.
fn within(first: u32, count: u32, len: usize) -> bool {
    first as u64 + count as u64 <= len as u64
}

/// The kernel's data lies in its image, apart from its code, and in the file. What moves with the image is part of either.
pub(crate) fn launch(launch: &Launch<'_>, v: &View<'_>) -> Result<(), Error> {
    let fits = |offset: u64, len: u64, whole: u64| offset.checked_add(len).is_some_and(|end| end <= whole);
    let apart = |run: &Run| {
        let run = v.info.image_va + run.image_offset..v.info.image_va + run.image_offset + run.len;
        let mut code = v.regions.iter().take_while(|r| r.module == NONE);
        code.all(|r| r.base >= run.end || r.base + r.pages as u64 * PAGE as u64 <= run.start)
    };
    all(launch.runs, Section::Runs, |r| {
        fits(r.data_offset, r.len, launch.data.len() as u64)
            && fits(r.image_offset, r.len, v.info.image_span)
            && apart(r)
    })?;
    let mut keeper = Keeper::new(launch.runs, v.regions, v.info.image_va);
    let mut end = 0;
    for (i, reloc) in launch.relocs.iter().enumerate() {
        let bad = Err(Error::Record(Section::Relocs, i));
        let Some(next) = reloc.end() else { return bad };
        if reloc.offset() < end || keeper.find(&reloc).is_none() {
            return bad;
        }
        end = next;
    }
    relocated_sites(launch, v)
}

/// A relocated field that touches a patch site is a field of the linked form the site begins with.
fn relocated_sites(launch: &Launch<'_>, v: &View<'_>) -> Result<(), Error> {
    let mut relocs = launch.relocs.iter().enumerate().peekable();
    for region in v.regions.iter().take_while(|r| r.module == NONE) {
        for page in region.first_page..region.first_page + region.pages {
            let at = region.base - v.info.image_va + (page - region.first_page) as u64 * PAGE as u64;
            for site in v.sites_of(page as usize).map(|s| v.sites.at(s)) {
                let start = at + site.offset() as u64;
                while relocs.next_if(|(_, r)| r.end().is_some_and(|end| end <= start)).is_some() {}
                while let Some((i, r)) = relocs.next_if(|(_, r)| r.offset() < start + v.site_len(&site) as u64) {
                    if !relocated(v, &site, r.offset().checked_sub(start), r.kind()) {
                        return Err(Error::Record(Section::Relocs, i));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Whether the first variant of a choice has such a field there.
fn relocated(v: &View<'_>, site: &Site, pos: Option<u64>, kind: Option<RelocKind>) -> bool {
    let (Some(SiteKind::Choice), Some(pos)) = (site.kind(), pos) else { return false };
    let linked = v.variants.at(v.templates.at(site.index() as usize).first_variant as usize);
    let mut fixes = v.fixes.range(linked.first_fix as usize, linked.fixes as usize).filter(|f| f.pos as u64 == pos);
    let moves = |f: &Fix| v.exprs.at(f.expr as usize).var;
    fixes.any(|f| match (kind, FixKind::new(f.kind)) {
        (Some(RelocKind::Abs32), Some(FixKind::ExprAbs32)) => moves(&f) == KERNEL,
        (Some(RelocKind::Inverse32), Some(FixKind::ExprRel32)) => moves(&f) == NONE,
        _ => false,
    })
}

/// The last page there is: nothing an approval places may reach into it, so that addresses do not wrap.
const LAST_PAGE: u64 = !(PAGE as u64 - 1);

/// Every index of the part that is kept refers to something.
pub(crate) fn view(v: &View<'_>, code: usize) -> Result<(), Error> {
    let info = &v.info;
    let aligned = info.align.is_power_of_two()
        && info.align >= PAGE as u64
        && info.image_phys.is_multiple_of(info.align)
        && info.image_va.is_multiple_of(PAGE as u64);
    let sane = info.entry_offset < info.image_span && info.image_span < 1 << 30 && info.image_phys < 1 << 40;
    let range = (LOW_END..=info.modules_end).contains(&info.modules_start) && info.modules_end <= LAST_PAGE;
    let fits = info.image_va <= LAST_PAGE - info.image_span.min(LAST_PAGE);
    if !aligned || !sane || !range || !fits {
        return Err(Error::Record(Section::Info, 0));
    }
    if !v.names_valid() {
        return Err(Error::Section(Section::Names as usize));
    }
    let Some(pages) = v.page_table.len().checked_sub(1) else { return Err(Error::Section(Section::Pages as usize)) };
    let is = |page: usize, sites: usize, at: usize, packed: usize| {
        let Page { first_site, at: at_code, packed: at_packed, .. } = v.page_table.at(page);
        [first_site, at_code, at_packed].map(|at| at as usize) == [sites, at, packed]
    };
    if !is(0, 0, 0, 0) || !is(pages, v.sites.len(), code, v.packed.len()) {
        return Err(Error::Record(Section::Pages, pages));
    }
    modules(v)?;
    regions(v, pages)?;
    all(v.vars, Section::Vars, |r| VarClass::new(r.class).is_some())?;
    all(v.exprs, Section::Exprs, |e| matches!(e.var, NONE | KERNEL) || (e.var as usize) < v.vars.len())?;
    templates(v)?;
    if info.call_forms != NONE && !call_forms(v, info.call_forms as usize) {
        return Err(Error::Record(Section::Info, 0));
    }
    all(v.consts, Section::Consts, |c| ConstClass::new(c.class).is_some())?;
    sites(v)
}

/// Regions, variables and expressions are their modules', one module after the other.
fn modules(v: &View<'_>) -> Result<(), Error> {
    let mut region = v.regions.iter().take_while(|r| r.module == NONE).count();
    let (mut var, mut expr) = (0, 0);
    for (i, m) in v.modules.iter().enumerate() {
        let in_order = m.first_region as usize == region && m.first_var as usize == var && m.first_expr >= expr;
        let inside = within(m.first_region, m.regions, v.regions.len()) && within(m.first_var, m.vars, v.vars.len());
        if !in_order || !inside || m.first_expr as usize > v.exprs.len() || m.regions > 2 {
            return Err(Error::Record(Section::Modules, i));
        }
        let own = m.first_var as u64..(m.first_var + m.vars) as u64;
        let room = |base: u64| match VarClass::new(v.vars.at(base as usize).class) {
            Some(VarClass::Code) => LAST_PAGE - v.info.modules_end,
            Some(VarClass::Low) => LOW_END - PAGE as u64,
            _ => 0,
        };
        let fits = |r: &Region| own.contains(&r.base) && r.pages as u64 <= room(r.base) / PAGE as u64;
        let placed = |r: Region| r.module as usize == i && fits(&r);
        if !v.regions.range(region, m.regions as usize).all(placed)
            || !v.vars.range(var, m.vars as usize).all(|var| var.module as usize == i)
        {
            return Err(Error::Record(Section::Modules, i));
        }
        (region, var, expr) = (region + m.regions as usize, var + m.vars as usize, m.first_expr);
    }
    match region == v.regions.len() && var == v.vars.len() {
        true => Ok(()),
        false => Err(Error::Section(Section::Modules as usize)),
    }
}

fn regions(v: &View<'_>, pages: usize) -> Result<(), Error> {
    let (mut next_page, mut next_base) = (0, v.info.image_va);
    for (i, r) in v.regions.iter().enumerate() {
        let bad = Err(Error::Record(Section::Regions, i));
        let Some(kind) = RegionKind::new(r.kind) else { return bad };
        let kernel = matches!(kind, RegionKind::KernelText | RegionKind::KernelInit);
        if r.first_page != next_page || r.pages == 0 || !within(r.first_page, r.pages, pages) {
            return bad;
        }
        next_page += r.pages;
        if !within(r.first_symbol, r.symbols, v.symbols.len()) || kernel != (r.module == NONE) {
            return bad;
        }
        let len = r.pages as u64 * PAGE as u64;
        let end = v.info.image_va + v.info.image_span;
        if kernel {
            if !r.base.is_multiple_of(PAGE as u64) || r.base < next_base || r.base > end || len > end - r.base {
                return bad;
            }
            next_base = r.base + len;
        }
    }
    if next_page as usize != pages {
        return Err(Error::Section(Section::Regions as usize));
    }
    Ok(())
}

fn templates(v: &View<'_>) -> Result<(), Error> {
    for (i, t) in v.templates.iter().enumerate() {
        let bad = Err(Error::Record(Section::Templates, i));
        let len = t.len as usize;
        if len == 0 || len > MAX_SITE || t.variants == 0 || t.variants as usize > MAX_VARIANTS {
            return bad;
        }
        if !within(t.first_variant, t.variants as u32, v.variants.len()) {
            return bad;
        }
        for variant in v.variants.range(t.first_variant as usize, t.variants as usize) {
            let fixes_ok = within(variant.first_fix, variant.fixes as u32, v.fixes.len())
                && v.fixes.range(variant.first_fix as usize, variant.fixes as usize).all(|f| fix(v, &f, len));
            if !fixes_ok || variant.bytes as usize > v.bytes_len() || len > v.bytes_len() - variant.bytes as usize {
                return bad;
            }
            if variant.cond & !cond::NOT >= cond::END {
                return bad;
            }
        }
    }
    Ok(())
}

/// Whether a template holds what may take a call's place anywhere.
fn call_forms(v: &View<'_>, index: usize) -> bool {
    index < v.templates.len() && {
        let t = v.templates.at(index);
        let plain = |form: Variant| form.fixes == 0;
        t.len as usize == CALL_LEN && v.variants.range(t.first_variant as usize, t.variants as usize).all(plain)
    }
}

fn fix(v: &View<'_>, f: &Fix, len: usize) -> bool {
    FixKind::new(f.kind).is_some() && f.pos as usize + 4 <= len && (f.expr as usize) < v.exprs.len()
}

fn sites(v: &View<'_>) -> Result<(), Error> {
    for (i, region) in v.regions.iter().enumerate() {
        let first_expr =
            |m: usize| if m < v.modules.len() { v.modules.at(m).first_expr as usize } else { v.exprs.len() };
        let exprs = match region.module {
            NONE => first_expr(0),
            module => first_expr(module as usize + 1) - first_expr(module as usize),
        };
        let mut end = 0usize;
        for page in region.first_page..region.first_page + region.pages {
            let (own, next) = (v.page_table.at(page as usize), v.page_table.at(page as usize + 1));
            let bad = Err(Error::Record(Section::Pages, page as usize));
            if own.first_site > next.first_site || next.first_site as usize > v.sites.len() {
                return bad;
            }
            let at = (page - region.first_page) as usize * PAGE;
            let mut covered = end.saturating_sub(at);
            for s in own.first_site as usize..next.first_site as usize {
                let site = v.sites.at(s);
                let Some(len) = v.site_len_below(&site, exprs) else { return Err(Error::Record(Section::Sites, s)) };
                if at + site.offset() < end {
                    return Err(Error::Record(Section::Sites, s));
                }
                end = at + site.offset() + len;
                covered += end.min(at + PAGE) - at - site.offset();
            }
            if !stored(v, &own, &next, covered, region.module != NONE) {
                return bad;
            }
        }
        if end > region.pages as usize * PAGE {
            return Err(Error::Record(Section::Regions, i));
        }
    }
    Ok(())
}

/// Whether a page is there as a whole, or if it may be packed, what its sites cover and a block of the rest, which is not
/// looked into ([`crate::pages::Pages::get`]).
fn stored(v: &View<'_>, own: &Page, next: &Page, covered: usize, may_be_packed: bool) -> bool {
    let Some(len) = next.at.checked_sub(own.at) else { return false };
    match v.packed.get(own.packed as usize..next.packed as usize) {
        None => false,
        Some([]) => len as usize == PAGE,
        Some(block) => may_be_packed && len as usize == covered && block.len() < PAGE,
    }
}
