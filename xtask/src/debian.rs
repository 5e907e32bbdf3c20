//! A real Debian: minimal and stock, installed on a disk as its own tools install it.
//!
//! The packages come from the archive with their signatures checked ([`pool`]); a guest without SecVisor installs
//! them on a disk ([`disk`]). Nothing on the host needs root, and no run changes the disk.

pub mod disk;
pub mod machine;
pub mod pool;

use clap::ValueEnum;

/// Which Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Release {
    /// With Linux 6.1.
    #[value(name = "12")]
    Bookworm,
    /// With Linux 6.12.
    #[value(name = "13")]
    Trixie,
}

impl Release {
    /// All of them.
    pub const ALL: [Release; 2] = [Release::Bookworm, Release::Trixie];

    /// What the archive calls it.
    pub fn codename(self) -> &'static str {
        match self {
            Release::Bookworm => "bookworm",
            Release::Trixie => "trixie",
        }
    }

    /// What we call it.
    pub fn name(self) -> &'static str {
        match self {
            Release::Bookworm => "debian-12",
            Release::Trixie => "debian-13",
        }
    }

    /// The line of its kernel.
    pub fn linux(self) -> &'static str {
        match self {
            Release::Bookworm => "6.1",
            Release::Trixie => "6.12",
        }
    }
}
