//! How long it takes to compare a page with its approval, natively
//!
//! The pages of a real kernel, and those of its modules unpacked, if `SECVISOR_APPROVAL` names an approval, and a made-up page with as many sites as the
//! fuller ones have. They hold what a booted Linux would have put there, and are compared under the rules of boot,
//! which are the slower ones.

mod kernel;
mod synthetic;

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use kernel::Kernel;
use secvisor_approval::wire::NONE;
use secvisor_approval::{PAGE, view};
use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("verify");
    pages(&mut group, "page of 120 sites", synthetic::approval());
    if let Some(path) = std::env::var_os("SECVISOR_APPROVAL") {
        let file = fs::read(&path).unwrap_or_else(|error| panic!("no {}: {error}", path.display()));
        unpack(&mut group, "modules' pages, unpacked", file.clone());
        pages(&mut group, "kernel pages", file);
    }
    group.finish();
    criterion.final_summary();
}

/// Measures the mean time to get a module's page.
fn unpack(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut approval: Vec<u8>) {
    let (_, view, pages) = view::open(&mut approval).expect("an approval of this version");
    let modules = view.regions.iter().filter(|region| region.module != NONE);
    let numbers: Vec<u32> = modules.flat_map(|r| r.first_page..r.first_page + r.pages).collect();
    println!("{name}: {} pages", numbers.len());
    if numbers.is_empty() {
        return;
    }
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|times| {
            let start = Instant::now();
            for page in numbers.iter().cycle().take(times as usize) {
                black_box(pages.get(*page, &mut [0; PAGE]));
            }
            start.elapsed()
        });
    });
}

/// Measures the mean time per page.
fn pages(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, approval: Vec<u8>) {
    let mut kernel = Kernel::patched(approval);
    println!("{name}: {} pages, {} sites", kernel.pages(), kernel.sites());
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|times| {
            let total: Duration = (0..times).map(|_| kernel.verify_all()).sum();
            total / kernel.pages() as u32
        });
    });
}
