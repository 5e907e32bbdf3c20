//! The hypercall: read one counter
//!
//! VMMCALL with RAX = 53564300h ("SVC", function 0) and RDI = index; the value comes back in RAX, all ones if there is
//! none. From any privilege level: it gives no address and touches no memory.
use secvisor_amd64::exit::REASONS;

use crate::stats::Stats;
use crate::vcpu::Vcpu;

const STATUS: u64 = 0x5356_4300;
/// Index of the first exit counter.
const EXITS: u64 = 16;
/// Index of the first kept violation, the latest.
const LOG: u64 = 256;

impl Vcpu {
    pub(super) fn hypercall(&mut self) {
        self.vmcb.save.rax = match self.vmcb.save.rax {
            STATUS => self.counter(self.regs.rdi).unwrap_or(u64::MAX),
            _ => u64::MAX,
        };
        self.skip(3);
    }

    fn counter(&self, index: u64) -> Option<u64> {
        let core = self.machine.core.lock();
        let rules = core.rules.counters();
        let sum = |of: fn(&Stats) -> u64| self.machine.crowd.cpus.iter().map(|cpu| of(&cpu.stats)).sum::<u64>();
        Some(match index {
            0 => 1,
            1 => core.rules.booted() as u64,
            2 => rules.approved,
            3 => rules.verified,
            4 => rules.refused,
            5 => rules.restored,
            6 => rules.writes,
            7 => rules.writes_after_boot,
            8 => sum(|s| s.violations.get()),
            9 => sum(|s| s.switches.get()),
            10 => sum(|s| s.flushes.get()),
            11 => self.machine.kept,
            12 => EXITS | (REASONS.len() as u64) << 32,
            13 => sum(|s| s.windows.get()),
            14 => sum(|s| s.absent.get()),
            15 => self.machine.crowd.cpus.len() as u64,
            32 => self.machine.crowd.shootdowns.get(),
            33 => self.machine.core.contended.get(),
            LOG.. => core.log.latest(index - LOG)?,
            _ => {
                let index = index.checked_sub(EXITS)? as usize;
                let exits = self.machine.crowd.cpus.iter().map(|cpu| cpu.stats.exits(index));
                exits.sum::<Option<u64>>()?
            }
        })
    }
}
