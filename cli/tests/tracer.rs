//! The function tracer's trampolines: kernels whose ftrace code has an unknown form are refused by name
mod synthetic;

use secvisor::approve::approve;
use secvisor::inspect;
use secvisor_approval::wire::{NONE, RegionKind};
use secvisor_approval::{PAGE, view};
use synthetic::{BASE, Packing, at};

/// Length of the code that is copied.
const END: usize = 15;

fn approved(changes: &[(u64, &[u8])]) -> Result<Vec<u8>, String> {
    let mut linked = synthetic::vmlinux();
    for (address, bytes) in changes {
        let offset = PAGE + (address - BASE) as usize;
        linked[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    let made = approve("kernel", &synthetic::bzimage(&linked, Packing::Lz4), &[], &|_| ());
    made.map(|made| made.bytes).map_err(|e| format!("{e:#}"))
}

#[test]
fn each_of_the_kernels_own_has_two() {
    let mut file = approved(&[]).unwrap();
    let (_, view, pages) = view::open(&mut file).unwrap();
    assert_eq!(inspect::modules(&view), 0, "they do not count as modules");
    let tracers: Vec<_> = view.regions.iter().filter(|r| r.kind == RegionKind::Tracer as u32).collect();
    let names = tracers.iter().map(|r| view.name(view.modules.at(r.module as usize).name));
    let want = ["ftrace_caller:global_ops", "ftrace_regs_caller:global_ops", "ftrace_caller:trace_ops"];
    let want = want.into_iter().chain(["ftrace_regs_caller:trace_ops", "ftrace_caller:trace_ops"]);
    let want = want.chain(["ftrace_regs_caller:trace_ops"]).map(|n| format!("ftrace:{n}"));
    assert_eq!(names.collect::<Vec<_>>(), want.collect::<Vec<_>>());
    let mut room = [0; PAGE];
    for (region, ops) in tracers.iter().zip([0x40, 0x40, 0x48, 0x48, 0x50, 0x50]) {
        let page = pages.get(region.first_page, &mut room).unwrap();
        // The load of what lies behind the return.
        assert_eq!(page[..7], [0x48, 0x8b, 0x15, END as u8 + 5 - 7, 0, 0, 0]);
        assert_eq!(page[END], 0xe9);
        let pointer = END + 5;
        assert_eq!(page[pointer..pointer + 8], (at::DATA + ops).to_le_bytes());
        assert!(page[pointer + 8..].iter().all(|b| *b == 0));
        let sites: Vec<usize> = view.sites_of(region.first_page as usize).map(|s| view.sites.at(s).offset()).collect();
        assert_eq!(sites, [7, END, pointer]);
        assert!(region.module != NONE && region.pages == 1);
    }
}

#[test]
fn unknown_forms_are_refused_by_name() {
    let cases: [(u64, &[u8], &str); 5] = [
        (at::FTRACE + 2, &[0x0d], "ftrace_caller does not load its ftrace_ops at +0x0"),
        (at::FTRACE_REGS + 12, &[0xeb], "ftrace_regs_caller has no short jump at +0xc"),
        (at::FTRACE + 7, &[0xe9], "ftrace_call is"),
        (at::FTRACE + 12, &[0xeb, 0x40], "ftrace_caller refers to something outside of it at +0xc"),
        (at::FTRACE + 12, &[0x06], "unknown instruction"),
    ];
    for (address, bytes, want) in cases {
        let error = approved(&[(address, bytes)]).unwrap_err();
        assert!(error.contains(want), "{address:#x}: {error}");
    }
}
