//! MSRs and CPUID
use secvisor_amd64::cpuid::MASKED;
use secvisor_amd64::event::{Event, vector};
use secvisor_amd64::{msr, reg};
use secvisor_rules::msr::{self as msr_rules, MsrWrite};
use secvisor_rules::{Frame, Rule, Violation};

use crate::cpu::instr;
use crate::vcpu::Vcpu;

/// Registers whose writes are completed here.
const KEPT: [u32; 9] = [
    msr::DEBUG_CTL,
    msr::EFER,
    msr::SYSENTER_CS,
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SFMASK,
    msr::VM_CR,
    msr::VM_HSAVE_PA,
];

impl Vcpu {
    pub(super) fn cpuid(&mut self) {
        let (leaf, subleaf) = (self.vmcb.save.rax as u32, self.regs.rcx as u32);
        let mut out = instr::cpuid(leaf, subleaf);
        for masked in MASKED.iter().filter(|m| m.leaf == leaf && (leaf != 7 || m.subleaf == subleaf)) {
            out[masked.register] &= !masked.bits;
        }
        // Two bits mirror CR4 of whoever executes CPUID: here the guest's count.
        let mirror = |value: u32, bit: u32, on: bool| value & !(1 << bit) | (on as u32) << bit;
        let cr4 = self.vmcb.save.cr4;
        match leaf {
            1 => out[2] = mirror(out[2], 27, cr4 & reg::CR4_OSXSAVE != 0),
            7 if subleaf == 0 => out[2] = mirror(out[2], 4, cr4 & reg::CR4_PKE != 0),
            _ => {}
        }
        self.vmcb.save.rax = out[0] as u64;
        self.regs.rbx = out[1] as u64;
        self.regs.rcx = out[2] as u64;
        self.regs.rdx = out[3] as u64;
        self.skip(2);
    }

    pub(super) fn msr(&mut self) {
        let number = self.regs.rcx as u32;
        let write = self.vmcb.control.exit_info1 & 1 != 0;
        let value = self.vmcb.save.rax & 0xffff_ffff | self.regs.rdx << 32;
        if write && !KEPT.contains(&number) {
            return self.other_msr(number, value);
        }
        let result = if write { self.write_msr(number, value) } else { self.read_msr(number) };
        match result {
            Some(value) => {
                if !write {
                    self.vmcb.save.rax = value & 0xffff_ffff;
                    self.regs.rdx = value >> 32;
                }
                self.skip(2);
            }
            None => self.inject(Event::exception_with(vector::GP, 0)),
        }
    }

    /// A write of a register that is not kept here.
    fn other_msr(&mut self, number: u32, value: u64) {
        let decision = match number {
            msr_rules::X2APIC_ICR if self.x2apic_command(value) => MsrWrite::Allow,
            msr_rules::X2APIC_ICR => return,
            // SAFETY: asked for registers that every processor with SVM has.
            _ => msr_rules::write(number, value, || unsafe { instr::rdmsr(number) }),
        };
        match decision {
            MsrWrite::Allow => {
                self.let_msr(number, true);
                if !self.open_msr_window(number) {
                    self.let_msr(number, false);
                    self.inject(Event::exception_with(vector::GP, 0));
                }
            }
            MsrWrite::Ignore => self.skip(2),
            MsrWrite::Refuse => {
                self.refuse_msr(number, value);
                self.inject(Event::exception_with(vector::GP, 0));
            }
        }
    }

    /// `None` is #GP.
    fn read_msr(&mut self, number: u32) -> Option<u64> {
        match number {
            msr::EFER => Some(self.vmcb.save.efer & !reg::EFER_SVME),
            msr::SYSENTER_CS => Some(self.hidden.sysenter_cs),
            // SVM is switched off and locked: Linux drops the feature.
            msr::VM_CR => Some(msr::VM_CR_LOCK | msr::VM_CR_SVMDIS),
            msr::VM_HSAVE_PA => Some(0),
            // Outside the map every MSR exits: it is the hardware's, if it has one.
            _ => None,
        }
    }

    fn write_msr(&mut self, number: u32, value: u64) -> Option<u64> {
        let canonical = ((value << 16) as i64 >> 16) as u64 == value;
        let hidden = &mut self.hidden;
        match number {
            msr::EFER => return self.write_efer(value),
            msr::SYSENTER_CS => hidden.sysenter_cs = value & 0xffff_ffff,
            msr::STAR => hidden.star = value,
            msr::LSTAR if canonical => hidden.lstar = value,
            msr::CSTAR if canonical => hidden.cstar = value,
            // Kept, since in a window it could put off the trap. LBR, BTF and the pins; the rest is reserved.
            msr::DEBUG_CTL if value & !0x3f == 0 => {}
            msr::SFMASK => hidden.sfmask = value & 0xffff_ffff,
            msr::LSTAR | msr::CSTAR | msr::DEBUG_CTL => return None,
            _ => {
                self.refuse_msr(number, value);
                return None;
            }
        }
        if number != msr::SYSENTER_CS {
            // SAFETY: SYSCALL MSRs and DEBUG_CTL with a value that was checked; the host does not use them.
            unsafe { instr::wrmsr(number, if number == msr::SFMASK { value & 0xffff_ffff } else { value }) };
        }
        Some(0)
    }

    fn refuse_msr(&mut self, number: u32, value: u64) {
        let violation = Violation { rule: Rule::Register, frame: Frame(0), nearest: None };
        self.violation_of(violation, format_args!(" action=refused msr={number:#x} value={value:#x}"));
    }

    fn write_efer(&mut self, value: u64) -> Option<u64> {
        let save = &mut self.vmcb.save;
        let long_mode_changes = (value ^ save.efer) & reg::EFER_LME != 0 && save.cr0 & reg::CR0_PG != 0;
        if value & reg::EFER_SVME != 0 {
            self.refuse_msr(msr::EFER, value);
            return None;
        }
        if value & !self.machine.features.efer != 0 || long_mode_changes {
            return None;
        }
        // LMA is the processor's (APM 2, 14.6.1).
        save.efer = value & !reg::EFER_LMA | save.efer & reg::EFER_LMA | reg::EFER_SVME;
        self.flush = true;
        Some(0)
    }
}
