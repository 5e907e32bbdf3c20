//! What the guest's programs share.

pub mod affinity;
pub mod vulnerable;
