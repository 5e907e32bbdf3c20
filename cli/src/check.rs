//! Checks on a finished approval: it opens, and what it approves is what was linked
use anyhow::{Context, Result, bail};
use secvisor_approval::PAGE;
use secvisor_approval::pages::Pages;
use secvisor_approval::view::{self, Opened, View};
use secvisor_approval::wire::{FixKind, KERNEL, NONE, Region, Site, SiteKind, Variant};

use crate::bytes::hex;

/// Opens an approval and compares every kernel site's linked form with the bytes that lie there: where the kernel was
/// linked, and moved as far as it can be.
pub fn check(file: &mut [u8]) -> Result<()> {
    let (_, view, pages) = view::open(file)?;
    blocks(&pages)?;
    sites_fit(&view, &pages)?;
    let mut copy = file.to_vec();
    let mut moved = Opened::new(&mut copy)?;
    let room = moved.room();
    moved.slide(room);
    let (_, view, pages) = moved.parts();
    sites_fit(&view, &pages).with_context(|| format!("moved by {room:#x}"))
}

/// Looks into every packed page, as launch does not.
pub fn blocks(pages: &Pages<'_>) -> Result<()> {
    match pages.malformed() {
        Some(page) => bail!("the approval's page {page} is malformed"),
        None => Ok(()),
    }
}

fn sites_fit(view: &View<'_>, pages: &Pages<'_>) -> Result<()> {
    for region in view.regions.iter().filter(|r| r.module == NONE) {
        for (address, site) in sites(view, &region) {
            let len = view.site_len(&site);
            let have = bytes(pages, &region, address - region.base, len);
            let want = linked(view, address, &site).with_context(|| format!("site at {address:#x}"))?;
            if !want.is_empty() && !want.contains(&have) {
                bail!("site at {address:#x} holds {} and not {}", hex(&have), hex(&want[0]));
            }
            if let SiteKind::StaticCall | SiteKind::StaticJump = site.kind().context("site kind")? {
                let target = view.exprs.at(site.index() as usize).value;
                let known = |r: Region| r.module == NONE && symbol_starts(view, &r, target);
                if !view.regions.iter().any(known) {
                    bail!("static call at {address:#x} goes to {target:#x}, where no symbol is");
                }
            }
        }
    }
    Ok(())
}

fn symbol_starts(view: &View<'_>, region: &Region, address: u64) -> bool {
    let offset = address.wrapping_sub(region.base);
    u32::try_from(offset).is_ok_and(|o| view.symbol_at(region, o).is_some_and(|s| s.offset == o))
}

/// The sites of a region with their address (kernel) or offset plus base (module).
pub fn sites<'a>(view: &'a View<'_>, region: &Region) -> impl Iterator<Item = (u64, Site)> + use<'a> {
    let (first, count) = (region.first_page, region.pages);
    let base = if region.module == NONE { region.base } else { 0 };
    (first..first + count).flat_map(move |page| {
        view.sites_of(page as usize).map(move |i| {
            let site = view.sites.at(i);
            (base + (page - first) as u64 * 4096 + site.offset() as u64, site)
        })
    })
}

/// Bytes of a region, which may straddle pages; zeros where a block is malformed.
pub fn bytes(pages: &Pages<'_>, region: &Region, offset: u64, len: usize) -> Vec<u8> {
    let (first, start) = (region.first_page + (offset / PAGE as u64) as u32, offset as usize % PAGE);
    let count = (start + len).div_ceil(PAGE) as u32;
    let page = |page| pages.get(page, &mut [0; PAGE]).copied().unwrap_or([0; PAGE]);
    let whole = (first..first + count).flat_map(page);
    whole.skip(start).take(len).collect()
}

/// A variant as it is at an absolute address; `None` if it depends on where a module is placed.
pub fn placed(view: &View<'_>, address: u64, site: &Site, variant: &Variant) -> Option<Vec<u8>> {
    let mut out = view.variant_bytes(variant, view.site_len(site)).to_vec();
    for fix in view.fixes.range(variant.first_fix as usize, variant.fixes as usize) {
        let pos = fix.pos as usize;
        let next = |len: u64| address + pos as u64 + len;
        let expr = || {
            let e = view.exprs.at(fix.expr as usize);
            matches!(e.var, NONE | KERNEL).then(|| e.value.wrapping_add_signed(fix.addend as i64))
        };
        match FixKind::new(fix.kind)? {
            FixKind::ExprRel32 => out[pos..pos + 4].copy_from_slice(&low32(expr()?.wrapping_sub(next(4)))),
            FixKind::ExprAbs32 => out[pos..pos + 4].copy_from_slice(&low32(expr()?)),
        }
    }
    Some(out)
}

fn low32(value: u64) -> [u8; 4] {
    (value as u32).to_le_bytes()
}

/// The forms a kernel site may have at link time.
fn linked(view: &View<'_>, address: u64, site: &Site) -> Result<Vec<Vec<u8>>> {
    let rel = |opcode: u8, target: u64| [&[opcode][..], &low32(target.wrapping_sub(address + 5))].concat();
    let target = || view.exprs.at(site.index() as usize).value.wrapping_add_signed(site.arg() as i64);
    Ok(match site.kind().context("unknown kind")? {
        SiteKind::Choice => {
            let template = view.templates.at(site.index() as usize);
            let first = view.variants.at(template.first_variant as usize);
            vec![placed(view, address, site, &first).context("kernel site depends on a module")?]
        }
        SiteKind::Jump2 => vec![vec![0x66, 0x90], vec![0xeb, site.arg() as u8]],
        SiteKind::Jump5 => vec![crate::nops::NOP5.to_vec(), [&[0xe9][..], &site.arg().to_le_bytes()].concat()],
        SiteKind::Ftrace => vec![rel(0xe8, view.info.fentry)],
        SiteKind::StaticCall => vec![rel(0xe8, target())],
        SiteKind::StaticJump => vec![rel(0xe9, target())],
        SiteKind::Trampoline => vec![[&rel(0xe9, target())[..], &[0x0f, 0xb9, 0xcc]].concat()],
        SiteKind::Const => {
            let constant = view.consts.at(site.index() as usize);
            vec![constant.link.to_le_bytes()[..view.site_len(site)].to_vec()]
        }
        // Any call.
        SiteKind::FtraceCall => Vec::new(),
        SiteKind::Abs32 | SiteKind::Rel32 | SiteKind::Abs64 | SiteKind::Segment => {
            bail!("a relocated field in the kernel")
        }
    })
}
