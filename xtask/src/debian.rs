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
    /// With Linux 6.1, the variant for virtual machines.
    #[value(name = "12")]
    Bookworm,
    /// With Linux 6.1 with all drivers.
    #[value(name = "12-generic")]
    BookwormGeneric,
    /// With Linux 6.12, the variant for virtual machines.
    #[value(name = "13")]
    Trixie,
    /// With Linux 6.12 with all drivers.
    #[value(name = "13-generic")]
    TrixieGeneric,
    /// With Linux 7.x with all drivers.
    #[value(name = "13-backports")]
    TrixieBackports,
}

/// What differs between them.
struct Traits {
    /// What we call it.
    name: &'static str,
    /// What the archive calls it.
    codename: &'static str,
    /// The line and flavour of its kernel.
    linux: &'static str,
    /// The package of its kernel.
    image: &'static str,
    /// Whether that comes from the release's backports.
    backports: bool,
}

impl Release {
    /// All of them.
    pub const ALL: [Release; 5] = [
        Release::Bookworm,
        Release::BookwormGeneric,
        Release::Trixie,
        Release::TrixieGeneric,
        Release::TrixieBackports,
    ];

    fn traits(self) -> Traits {
        let (cloud, generic) = ("linux-image-cloud-amd64", "linux-image-amd64");
        let of = |name, codename, linux, image, backports| Traits { name, codename, linux, image, backports };
        match self {
            Release::Bookworm => of("debian-12", "bookworm", "6.1", cloud, false),
            Release::BookwormGeneric => of("debian-12-generic", "bookworm", "6.1-generic", generic, false),
            Release::Trixie => of("debian-13", "trixie", "6.12", cloud, false),
            Release::TrixieGeneric => of("debian-13-generic", "trixie", "6.12-generic", generic, false),
            Release::TrixieBackports => of("debian-13-backports", "trixie", "7.x-generic", generic, true),
        }
    }

    /// What we call it.
    pub fn name(self) -> &'static str {
        self.traits().name
    }

    /// What the archive calls it.
    pub fn codename(self) -> &'static str {
        self.traits().codename
    }

    /// The line and flavour of its kernel.
    pub fn linux(self) -> &'static str {
        self.traits().linux
    }

    /// The package of its kernel.
    pub fn image(self) -> &'static str {
        self.traits().image
    }

    /// Whether its kernel comes from the release's backports.
    pub fn backports(self) -> bool {
        self.traits().backports
    }
}
