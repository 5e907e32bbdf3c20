//! The function tracer's trampolines: what `create_trampoline()` makes for an `ftrace_ops`
//!
//! Linux copies `ftrace_caller`, or `ftrace_regs_caller`, as it is at that moment to a page of its own, ends it with a
//! return and the address of the `ftrace_ops`, lets the code load that instead of a variable, and calls the tracer's
//! function directly (`arch/x86/kernel/ftrace.c`). Each of these pages is described whole, one for every `ftrace_ops`
//! in the kernel image; those in memory that Linux allocates have no address that could be approved.
use anyhow::{Context, Result, bail, ensure};
use secvisor_approval::PAGE;
use secvisor_approval::build::{RegionDef, SiteDef, SymbolDef};
use secvisor_approval::wire::{KERNEL, RegionKind, SiteKind, VarClass};

use crate::branches::return_variants;
use crate::code::{Address, Code, Variant};
use crate::emit::Emitter;
use crate::insn;
use crate::kernel::Kernel;
use crate::sites::{Site, What};

/// The kernel's own `ftrace_ops`: of the function tracer, the graph tracer, the stack tracer, and of kprobes at
/// function entries.
const OPS: [&str; 5] = ["global_ops", "graph_ops", "trace_ops", "kprobe_ftrace_ops", "kprobe_ipmodify_ops"];

/// What the names of tracers in the approval begin with. No module's does: Linux has no such names.
const PREFIX: &str = "ftrace:";

/// Room for the return: `jmp` to a return thunk (`RET_SIZE`).
const RET: usize = 5;

/// `movq disp32(%rip), %rdx`, without its displacement.
const LOAD: [u8; 3] = [0x48, 0x8b, 0x15];

/// A code that Linux copies.
struct Original {
    name: &'static str,
    start: u64,
    /// As linked, up to where the return is added.
    bytes: Vec<u8>,
    /// Where it loads the address of the `ftrace_ops`, and calls.
    load: usize,
    call: usize,
}

impl Original {
    fn find(kernel: &Kernel<'_>, name: &'static str, call: &str, jump: Option<&str>) -> Result<Self> {
        let start = kernel.symbols.need(name)?;
        let offset = |symbol: &str| -> Result<usize> {
            let address = kernel.symbols.need(symbol)?;
            let offset = address.checked_sub(start).filter(|o| *o < PAGE as u64);
            Ok(offset.with_context(|| format!("{symbol} is not in {name}"))? as usize)
        };
        let end = offset(&format!("{name}_end"))?;
        let mut bytes = kernel.image.bytes(start, end)?.to_vec();
        let (load, call) = (offset(&format!("{name}_op_ptr"))?, offset(call)?);
        ensure!(bytes.get(load..load + 3) == Some(&LOAD), "{name} does not load its ftrace_ops at +{load:#x}");
        // The way to a direct call is cut off.
        if let Some(at) = jump.map(offset).transpose()? {
            ensure!(bytes.get(at) == Some(&0x75) && at + 1 < end, "{name} has no short jump at +{at:#x}");
            bytes[at..at + 2].copy_from_slice(&[0x66, 0x90]);
        }
        let own = bytes.len() + RET - (load + LOAD.len() + 4);
        let field = load + LOAD.len();
        bytes[field..field + 4].copy_from_slice(&(own as u32).to_le_bytes());
        let original = Self { name, start, bytes, load, call };
        original.check_movable()?;
        ensure!(!kernel.relocs.touches(start..start + end as u64), "{name} holds an address, which is unknown");
        Ok(original)
    }

    /// Whether nothing but the load and the call depends on where the code is.
    fn check_movable(&self) -> Result<()> {
        for insn in insn::all(&self.bytes)? {
            let Some(field) = insn.relative else { continue };
            let target = insn.target(&self.bytes).unwrap_or(-1);
            let known = insn.pos == self.load || insn.pos == self.call && field.len == 4;
            if !known && !(0..self.bytes.len() as i64).contains(&target) {
                bail!("{} refers to something outside of it at +{:#x}, which is unknown", self.name, insn.pos);
            }
        }
        Ok(())
    }

    /// Its sites, of those of the kernel.
    fn sites<'s>(&self, all: &'s [Site]) -> impl Iterator<Item = &'s Site> + use<'s> {
        let range = self.start..self.start + self.bytes.len() as u64;
        all.iter().filter(move |s| range.contains(&s.address))
    }

    /// Writes the copy for one `ftrace_ops` into an approval, as a module.
    fn emit(&self, ops: (&str, u64), sites: &[Site], emitter: &mut Emitter) -> Result<()> {
        let name = format!("{PREFIX}{}:{}", self.name, ops.0);
        let (module, base) = emitter.builder.module(&name, &[VarClass::Code]);
        emitter.builder.begin_module(module);
        let mut defs = Vec::new();
        for site in self.sites(sites) {
            ensure!(
                matches!(site.what, What::Choice(_) | What::Endbr | What::FtraceCall),
                "{} has a {} at {:#x}, which is unknown",
                self.name,
                site.what.name(),
                site.address
            );
            defs.push(site.clone().emit(emitter, self.start)?);
        }
        let end = self.bytes.len() as u64;
        let at = Address { var: base, value: end };
        // What Linux does not write of the return's room stays zero (`init_on_alloc`).
        let short = |v: Variant| match v.code.fields.is_empty() {
            true => Variant::new(v.cond, Code::plain([0xc3, 0xcc, 0, 0, 0])),
            false => v,
        };
        let returns: Vec<_> = return_variants(at, emitter.return_thunks()).into_iter().map(short).collect();
        defs.push(SiteDef { offset: end, kind: SiteKind::Choice, index: emitter.template(at, &returns)?, arg: 0 });
        let pointer = end + RET as u64;
        let index = emitter.builder.local_expr(KERNEL, ops.1)?;
        defs.push(SiteDef { offset: pointer, kind: SiteKind::Abs64, index, arg: 0 });
        let mut bytes = self.bytes.clone();
        bytes.extend([0xe9, 0, 0, 0, 0]);
        bytes.extend(ops.1.to_le_bytes());
        Ok(emitter.builder.region(RegionDef {
            module,
            kind: RegionKind::Tracer,
            base: base as u64,
            bytes,
            sites: defs,
            // Not a function: no static call leads here.
            symbols: vec![SymbolDef { offset: 0, name: self.name.to_owned(), function: false }],
        })?)
    }
}

/// Adds the copies for every `ftrace_ops` of the kernel behind the AP trampoline. `sites` are all sites of the kernel.
pub fn emit(kernel: &Kernel<'_>, sites: &[Site], emitter: &mut Emitter) -> Result<()> {
    let originals = [
        Original::find(kernel, "ftrace_caller", "ftrace_call", None)?,
        Original::find(kernel, "ftrace_regs_caller", "ftrace_regs_call", Some("ftrace_regs_caller_jmp"))?,
    ];
    for name in OPS {
        // Static ones in different files may have the same name.
        for ops in kernel.symbols.iter().filter(|s| s.name == name && !s.is_text()) {
            for original in &originals {
                original.emit((name, ops.address), sites, emitter)?;
            }
        }
    }
    Ok(())
}
