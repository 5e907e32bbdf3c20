//! A data race of QEMU's that breaks nested paging on CPU 0, taken out of the copy that is used.
//!
//! Whenever a CPU restores x87 state, on Linux at most switches between programs, QEMU clears the IGNNE flag of the *first*
//! CPU: `cpu_clear_ignne` changes that CPU's `hflags2` (target/i386/tcg/system/fpu_helper.c), from another thread and
//! without a lock. The same word says whether nested paging is on. If CPU 0 is in the middle of VMRUN or an exit, its own
//! change is lost: the host is then executed by the guest's nested tables, or the guest without any. The flag itself
//! matters to nobody here: only a write to port 0xF0 sets it, for x87 errors as they were reported before CR0.NE.

use crate::fetch::lock;
use anyhow::{Context, Result};
use object::LittleEndian;
use object::elf::{FileHeader64, SHT_DYNSYM};
use object::read::elf::{FileHeader, ProgramHeader, Sym};
use std::fs;
use std::path::{Path, PathBuf};

const FUNCTION: &[u8] = b"cpu_clear_ignne";

/// The near return.
const RET: u8 = 0xc3;

/// The program without the race, in a file beside it that is made when it is not there.
pub fn without_race(program: &Path) -> Result<PathBuf> {
    let copy = program.with_extension("without-race");
    if !copy.exists() {
        let _lock = lock()?;
        let partial = program.with_extension("partial");
        fs::copy(program, &partial)?;
        let mut file = fs::read(program)?;
        if let Some(place) = place(&file).with_context(|| format!("{} is no program", program.display()))? {
            *file.get_mut(place).context("a function outside its file")? = RET;
            fs::write(&partial, file)?;
        }
        fs::rename(partial, &copy)?;
    }
    Ok(copy)
}

/// Where the function begins in the file; a QEMU without it has no race.
fn place(file: &[u8]) -> Result<Option<usize>> {
    let header = FileHeader64::<LittleEndian>::parse(file)?;
    let sections = header.sections(LittleEndian, file)?;
    let symbols = sections.symbols(LittleEndian, file, SHT_DYNSYM)?;
    let Some(symbol) = symbols.iter().find(|symbol| symbol.name(LittleEndian, symbols.strings()) == Ok(FUNCTION))
    else {
        return Ok(None);
    };
    let address = symbol.st_value(LittleEndian);
    let place = header.program_headers(LittleEndian, file)?.iter().find_map(|segment| {
        let offset = address.checked_sub(segment.p_vaddr(LittleEndian))?;
        (offset < segment.p_filesz(LittleEndian)).then(|| segment.p_offset(LittleEndian) + offset)
    });
    Ok(Some(place.context("a function in no segment")? as usize))
}
