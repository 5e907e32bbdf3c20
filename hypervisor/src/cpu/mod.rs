//! The processor: single instructions, VMRUN, enabling SVM, the local APIC
pub mod apic;
pub mod entropy;
pub mod idt;
pub mod instr;
pub mod mtrr;
pub mod run;
pub mod svm;
