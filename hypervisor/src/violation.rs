//! Violations: one line each, bounded
use core::fmt;

use secvisor_approval::view::SymbolName;
use secvisor_approval::wire::{NONE, Region, RegionKind};
use secvisor_rules::{Rules, Violation};

use crate::machine::Core;
use crate::report;
use crate::vcpu::Vcpu;

/// Lines printed in full; then only those whose number is a power of two.
const FULL: u64 = if cfg!(feature = "without-log-bound") { u64::MAX } else { 256 };
/// Violations kept.
const KEPT: usize = 128;

/// The last violations, in memory of ours.
pub struct Log {
    kept: [Option<Violation>; KEPT],
    count: u64,
}

impl Log {
    /// Empty.
    pub const fn new() -> Self {
        Self { kept: [None; KEPT], count: 0 }
    }

    /// A kept violation, 0 the latest: its number in bits 8-63, its rule in bits 0-7.
    pub fn latest(&self, back: u64) -> Option<u64> {
        let number = self.count.checked_sub(back).filter(|n| *n > 0 && back < KEPT as u64)?;
        let violation = self.kept[(number - 1) as usize % KEPT]?;
        Some(number << 8 | violation.rule as u64)
    }
}

impl Vcpu {
    /// Records and reports a violation.
    pub(crate) fn violation(&mut self, violation: Violation) {
        self.violation_of(violation, format_args!(" action=refused"));
    }

    /// Records and reports that a tampered page was put back.
    pub(crate) fn restored(&mut self, violation: Violation) {
        self.violation_of(violation, format_args!(" action=restored"));
    }

    /// As [`Self::violation`], with what else there is to say, each as ` key=value`.
    pub(crate) fn violation_of(&mut self, violation: Violation, detail: fmt::Arguments<'_>) {
        self.stats().violations.add();
        let rip = self.vmcb.save.rip;
        let machine = self.machine;
        let mut core = machine.core.lock();
        let Core { rules, log, .. } = &mut *core;
        log.kept[log.count as usize % KEPT] = Some(violation);
        log.count += 1;
        if log.count > FULL && !log.count.is_power_of_two() {
            return;
        }
        let at = match violation.nearest {
            Some((page, offset)) => page_name(rules, page, offset),
            None => address_name(rules, rip),
        };
        let (module, symbol, offset) = at.unwrap_or(("-", SymbolName::NONE, 0));
        report!(
            "violation rule={} cpu={} rip={rip:#x} gpa={:#x} symbol={symbol}+{offset:#x} module={module}{detail} n={}",
            violation.rule.name(),
            self.me,
            violation.frame.address(),
            log.count,
        );
    }
}

/// Module, symbol, offset from the symbol.
type Name<'a> = (&'a str, SymbolName<'a>, u32);

fn page_name<'a>(rules: &'a Rules<'_>, page: u32, offset: u16) -> Option<Name<'a>> {
    let view = rules.view();
    let region = view.regions.at(view.region_of_page(page));
    name(rules, &region, (page - region.first_page) * 4096 + offset as u32)
}

fn address_name<'a>(rules: &'a Rules<'_>, va: u64) -> Option<Name<'a>> {
    rules.view().regions.iter().find_map(|r| {
        let kernel = matches!(RegionKind::new(r.kind), Some(RegionKind::KernelText | RegionKind::KernelInit));
        let base = if kernel { r.base } else { rules.variable(r.base as usize) };
        let offset = va.wrapping_sub(base);
        (base != 0 && offset < r.pages as u64 * 4096).then(|| name(rules, &r, offset as u32)).flatten()
    })
}

fn name<'a>(rules: &'a Rules<'_>, region: &Region, offset: u32) -> Option<Name<'a>> {
    let view = rules.view();
    let module = match region.module {
        NONE => "kernel",
        module => view.name(view.modules.at(module as usize).name),
    };
    let symbol = view.symbol_at(region, offset);
    let known = symbol.map(|s| (view.symbol_name(&s), offset - s.offset));
    let (symbol, offset) = known.unwrap_or((SymbolName::NONE, offset));
    Some((module, symbol, offset))
}
