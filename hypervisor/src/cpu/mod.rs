//! The processor: single instructions, VMRUN, enabling SVM
pub mod idt;
pub mod instr;
pub mod run;
pub mod svm;
