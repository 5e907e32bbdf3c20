//! A made-up kernel of one page, with as many sites as the fuller pages of a real one

use secvisor_approval::PAGE;
use secvisor_approval::build::{Builder, FixDef, RegionDef, SiteDef, TemplateDef, VariantDef};
use secvisor_approval::wire::{FixKind, Info, NONE, RegionKind, SiteKind, cond};

const IMAGE: u64 = 0xffff_ffff_8100_0000;
const SITES: usize = 120;

/// Its approval.
pub fn approval() -> Vec<u8> {
    let mut builder = Builder::new();
    let names = [builder.name("synthetic"), builder.name("")];
    let thunk = builder.expr(NONE, IMAGE + 0x800);
    let fixes = vec![FixDef { pos: 1, kind: FixKind::ExprRel32 as u8, expr: thunk, addend: 0 }];
    let jump = VariantDef { cond: cond::BASE, bytes: vec![0xe9, 0, 0, 0, 0], fixes };
    let plain = VariantDef { cond: cond::RETURN_PLAIN, bytes: vec![0xc3, 0xcc, 0xcc, 0xcc, 0xcc], fixes: vec![] };
    let returns = builder.template(&TemplateDef(vec![jump, plain])).expect("one template");
    let form = |cond, bytes: [u8; 3]| VariantDef { cond, bytes: bytes.to_vec(), fixes: vec![] };
    let clac = TemplateDef(vec![form(cond::BASE, [0x0f, 0x1f, 0]), form(9 * 32 + 20, [0x0f, 0x01, 0xca])]);
    let clac = builder.template(&clac).expect("two templates");
    let address = builder.local_expr(NONE, IMAGE + 0x900).expect("one expression");
    let mut bytes = vec![0x90; PAGE];
    let sites = (0..SITES).map(|number| {
        let offset = (number * 32 + 8) as u64;
        let (kind, index, linked): (_, _, &[u8]) = match number % 4 {
            0 => (SiteKind::Choice, returns, &[0xe9, 0, 0, 0, 0]),
            1 => (SiteKind::Choice, clac, &[0x0f, 0x1f, 0]),
            2 => (SiteKind::Jump5, 0, &[0x0f, 0x1f, 0x44, 0, 0]),
            _ => (SiteKind::Abs32, address, &[0, 0x09, 0, 0x81]),
        };
        bytes[offset as usize..][..linked.len()].copy_from_slice(linked);
        SiteDef { offset, kind, index, arg: 0 }
    });
    let sites = sites.collect();
    let region = RegionDef { module: NONE, kind: RegionKind::KernelText, base: IMAGE, bytes, sites, symbols: vec![] };
    builder.region(region).expect("sites apart from each other");
    builder.finish(Info {
        image_va: IMAGE,
        image_phys: 0x100_0000,
        image_span: PAGE as u64,
        align: 0x20_0000,
        modules_start: 0xffff_ffff_c000_0000,
        modules_end: 0xffff_ffff_ff00_0000,
        release: names[0],
        cmdline: names[1],
        call_forms: NONE,
        ..Info::default()
    })
}
