//! What the guest's programs share.

pub mod vulnerable;
