//! Approvals that are not what the host tool wrote, for attacks on SecVisor's reading of them.

use anyhow::{Context, Result, ensure};
use secvisor_approval::build::seal;
use secvisor_approval::view::{self, View};
use secvisor_approval::wire::{NONE, SECTIONS_OFFSET, Section};

/// The function the attacks change (attacks/common/attack.h).
const VICTIM: &str = "__x64_sys_keyctl";

/// mov eax, 0x1337; ret
const CODE: [u8; 6] = [0xb8, 0x37, 0x13, 0, 0, 0xc3];

/// Where no part of a kernel belongs, and what is written there (attacks/approval-outside.c).
const OUTSIDE: u64 = 0x5_0000;
const TEXT: &[u8; 16] = b"written outside!";

/// By how much the data make room for one more run, which takes 24 bytes; sections start at multiples of 16.
const ROOM: usize = 32;

/// The approval as the attack called so wants it; `None` if it does not want it changed.
pub fn spoil(attack: &str, approval: &[u8]) -> Result<Option<Vec<u8>>> {
    match attack {
        "approval-damaged" => damaged(approval.to_vec()).map(Some),
        "approval-outside" => outside(approval.to_vec()).map(Some),
        _ => Ok(None),
    }
}

/// Code of the attacker's in a function of the kernel; the checksum is as it was.
fn damaged(mut file: Vec<u8>) -> Result<Vec<u8>> {
    let pages = section(&file, Section::Code).0;
    let (_, view, _) = view::open(&mut file)?;
    let (page, offset) = function(&view, VICTIM).context("no function to damage")?;
    let site = view.sites_of(page).map(|i| view.sites.at(i)).find(|site| site.offset() >= offset);
    let site = site.context("no function entry")?;
    let at = pages + page * secvisor_approval::PAGE + site.offset() + view.site_len(&site);
    file[at..at + CODE.len()].copy_from_slice(&CODE);
    Ok(file)
}

/// One more run, whose place is outside of the image; the checksum is right.
fn outside(mut file: Vec<u8>) -> Result<Vec<u8>> {
    let image = view::open(&mut file)?.1.info.image_phys;
    let (runs, runs_len) = section(&file, Section::Runs);
    let (data, data_len) = section(&file, Section::Data);
    let (relocs, relocs_len) = section(&file, Section::Relocs);
    let (info, _) = section(&file, Section::Info);
    let (moved, relocs_moved) = (data + ROOM, (data + ROOM + data_len + TEXT.len()).next_multiple_of(16));
    ensure!(moved >= runs + runs_len + 24 && relocs_moved + relocs_len <= info, "no room for another run");
    file.copy_within(relocs..relocs + relocs_len, relocs_moved);
    file.copy_within(data..data + data_len, moved);
    file[moved + data_len..][..TEXT.len()].copy_from_slice(TEXT);
    let run = [OUTSIDE.wrapping_sub(image), TEXT.len() as u64, data_len as u64];
    for (field, value) in run.into_iter().enumerate() {
        put(&mut file, runs + runs_len + 8 * field, value);
    }
    put(&mut file, entry(Section::Runs) + 8, runs_len as u64 + 24);
    put(&mut file, entry(Section::Data), moved as u64);
    put(&mut file, entry(Section::Data) + 8, (data_len + TEXT.len()) as u64);
    put(&mut file, entry(Section::Relocs), relocs_moved as u64);
    seal(&mut file);
    Ok(file)
}

fn put(file: &mut [u8], at: usize, value: u64) {
    file[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Where a section's entry in the table is.
pub fn entry(section: Section) -> usize {
    SECTIONS_OFFSET + 16 * section as usize
}

/// A section's offset and length.
fn section(file: &[u8], section: Section) -> (usize, usize) {
    let value = |at: usize| file[at..at + 8].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    (value(entry(section)), value(entry(section) + 8))
}

/// The page a function of the kernel begins in, and where in it.
fn function(view: &View<'_>, name: &str) -> Option<(usize, usize)> {
    view.regions.iter().take_while(|region| region.module == NONE).find_map(|region| {
        let mut symbols = view.symbols.range(region.first_symbol as usize, region.symbols as usize);
        let symbol = symbols.find(|symbol| view.symbol_name(symbol).is(name))?;
        let offset = symbol.offset as usize;
        Some((region.first_page as usize + offset / secvisor_approval::PAGE, offset % secvisor_approval::PAGE))
    })
}

/// Where the kernel's init text begins, physically and virtually, and how long it is.
pub fn init_text(approval: &mut [u8]) -> Result<(u64, u64, u64)> {
    let (_, view, _) = view::open(approval)?;
    let kind = secvisor_approval::wire::RegionKind::KernelInit as u32;
    let region = view.regions.iter().find(|region| region.kind == kind).context("no init text")?;
    let physical = view.info.image_phys + (region.base - view.info.image_va);
    Ok((physical, region.base, u64::from(region.pages) * secvisor_approval::PAGE as u64))
}
