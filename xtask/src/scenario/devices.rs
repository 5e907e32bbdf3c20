//! A small boot in earnest: disks with ext4, two network cards, drivers' writes to what is held, and stock modules that come
//! and go.

use super::loading::{FUNCTIONS, chain};
use super::stage::{QUIET, Setting, Stage, no_violations, said};
use crate::machine::Machine;
use crate::workspace::{self, find_program};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::time::Duration;
use xshell::cmd;

/// What is loaded and unloaded, if it is not built in; nvme and ext4 are part of Debian's cloud kernels, which have no e1000.
const MODULES: [&str; 8] = ["virtio_pci", "virtio_blk", "virtio_net", "vmxnet3", "dm_mod", "loop", "dummy", "tls"];

/// What the host puts on the disks and serves on the network.
const FILE: &str = "from-host";

const DISK_BYTES: u64 = 24 << 20;

/// Disks and network beneath SecVisor.
pub fn disks_and_network(stage: &Stage) -> Result<()> {
    let shared = stage.file("shared");
    fs::create_dir_all(&shared)?;
    // Nothing that compresses or repeats within a block.
    let content: Vec<u8> = (0_u32..100_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(shared.join(FILE), content)?;
    let disks = ["virtio", "nvme"].map(|name| stage.file(&format!("{name}.disk")));
    for disk in &disks {
        make_ext4(disk, &shared)?;
    }
    let mut machine = Machine::new("devices");
    for (disk, device) in disks.iter().zip(["virtio-blk-pci", "nvme,serial=1"]) {
        let id = device.split('-').next().unwrap_or_default().split(',').next().unwrap_or_default();
        machine.qemu.extra.extend(["-drive".into(), format!("if=none,format=raw,id={id},file={}", disk.display())]);
        machine.qemu.extra.extend(["-device".into(), format!("{device},drive={id}")]);
    }
    for (number, device) in ["virtio-net-pci", "vmxnet3"].iter().enumerate() {
        let net = format!("user,id=net{number},tftp={}", shared.display());
        machine.qemu.extra.extend(["-netdev".into(), net, "-device".into(), format!("{device},netdev=net{number}")]);
    }
    let mut initrd = stage.initrd()?;
    initrd.add_file(&format!("modules/{FILE}"), &shared.join(FILE))?;
    let mut chains = String::new();
    for name in MODULES {
        chains += &format!("{name}='{}'\n", chain(stage, &mut initrd, name)?);
    }
    let lines = [QUIET, FUNCTIONS, &chains, SCRIPT].concat();
    let guest = stage.run(Setting::Beneath, &machine, initrd, &lines, Duration::from_secs(300))?;
    let steps = said(&guest, "devices");
    let wrong: Vec<_> = steps.iter().filter(|step| step.starts_with("wrong")).collect();
    ensure!(wrong.is_empty() && steps.last() == Some(&"done"), "{wrong:?} of {steps:?}; {}", guest.where_to_look());
    no_violations(&guest)?;
    for disk in &disks {
        check_ext4(disk)?;
    }
    guest.finish()
}

fn make_ext4(disk: &Path, content: &Path) -> Result<()> {
    fs::File::create(disk)?.set_len(DISK_BYTES)?;
    let mke2fs = find_program("mke2fs").context("cannot make a disk: mke2fs is missing (package e2fsprogs)")?;
    let shell = workspace::shell()?;
    Ok(cmd!(shell, "{mke2fs} -q -F -t ext4 -d {content} {disk}").quiet().run()?)
}

/// The host finds the file system whole, and what the guest has written.
fn check_ext4(disk: &Path) -> Result<()> {
    let fsck = find_program("e2fsck").context("e2fsck is missing (package e2fsprogs)")?;
    let shell = workspace::shell()?;
    cmd!(shell, "{fsck} -f -n {disk}").quiet().ignore_stdout().run().context("the guest left a broken file system")
}

const SCRIPT: &str = r#"
wrong() { echo "devices: wrong: $*"; }
cat /proc/sys/kernel/tainted | grep -qx 0 || wrong tainted
want=$(sha256sum < /modules/from-host)

disk() { # device, round
  mkdir -p /mnt
  mount -t ext4 $1 /mnt || wrong mount $1
  [ "$(sha256sum < /mnt/from-host)" = "$want" ] || wrong $1 content
  cat /mnt/from-host /mnt/from-host > /mnt/twice.$2
  umount /mnt || wrong umount $1
  echo 3 > /proc/sys/vm/drop_caches
  mount -t ext4 $1 /mnt || wrong mount $1 again
  [ "$(cat /mnt/from-host /mnt/from-host | sha256sum)" = "$(sha256sum < /mnt/twice.$2)" ] || wrong $1 written
  umount /mnt || wrong umount $1 again
  echo "devices: $1 $2"
}

network() { # driver, round
  for card in /sys/class/net/*; do
    case $(readlink $card/device/driver) in */$1) interface=${card##*/};; esac
  done
  ip link set $interface up
  ip addr add 10.0.2.15/24 dev $interface
  i=0
  until ping -c 1 -W 1 10.0.2.2 > /dev/null; do
    i=$((i + 1)); [ $i = 5 ] && wrong no ping by $1 && break
  done
  ping -c 5 -i 0.1 10.0.2.2 > /dev/null || wrong ping by $1
  tftp -g -r from-host -l /tmp/from-host 10.0.2.2 || wrong tftp by $1
  [ "$(sha256sum < /tmp/from-host)" = "$want" ] || wrong content by $1
  ip addr flush dev $interface
  ip link set $interface down
  echo "devices: $1 $2"
}

# What drivers do: write a register that SecVisor holds as it is. Linux's lpc_ich does, at 1f.0 (ACPI_CNTL).
for register in 1f.0:68 00.0:144; do
  config=/sys/bus/pci/devices/0000:00:${register%:*}/config at=${register#*:}
  dd if=$config of=/tmp/byte bs=1 skip=$at count=1 2> /dev/null
  dd if=/tmp/byte of=$config bs=1 seek=$at conv=notrunc 2> /dev/null || wrong $register
done

for round in 1 2 3; do
  disk /dev/nvme0n1 $round
  load $virtio_pci || wrong virtio_pci
  load $virtio_blk || wrong virtio_blk
  disk /dev/vda $round
  unload $virtio_blk || wrong virtio_blk stays

  load $virtio_net || wrong virtio_net
  network virtio_net $round
  unload $virtio_net || wrong virtio_net stays
  load $vmxnet3 || wrong vmxnet3
  network vmxnet3 $round
  unload $vmxnet3 || wrong vmxnet3 stays

  unload $virtio_pci || wrong virtio_pci stays

  load $dm_mod || wrong dm_mod
  grep -q device-mapper /proc/misc || wrong no device-mapper
  unload $dm_mod || wrong dm_mod stays

  load $loop || wrong loop
  dd if=/dev/zero of=/tmp/image bs=1M count=4 2> /dev/null
  losetup /dev/loop0 /tmp/image || wrong losetup
  mke2fs -F /dev/loop0 > /dev/null || wrong mke2fs
  mount -t ext4 /dev/loop0 /mnt || wrong mount loop
  cp /modules/from-host /mnt
  umount /mnt; losetup -d /dev/loop0
  losetup -r /dev/loop1 /tmp/image || wrong losetup again
  mount -t ext4 -o ro /dev/loop1 /mnt || wrong mount loop again
  [ "$(sha256sum < /mnt/from-host)" = "$want" ] || wrong content of loop
  umount /mnt; losetup -d /dev/loop1
  unload $loop || wrong loop stays

  load $dummy || wrong dummy
  ip link add dummy9 type dummy || wrong no dummy
  ip link set dummy9 up
  ip addr add 192.0.2.1/24 dev dummy9
  ping -c 2 -i 0.1 -W 1 192.0.2.2 > /dev/null
  [ $(cat /sys/class/net/dummy9/statistics/tx_packets) -ge 2 ] || wrong dummy sent nothing
  ip link del dummy9
  unload $dummy || wrong dummy stays

  load $tls || wrong tls
  grep -qw tls /proc/sys/net/ipv4/tcp_available_ulp || wrong no tls
  unload $tls || wrong tls stays
  [ -z "$(cat /proc/modules)" ] || wrong "stay: $(cat /proc/modules)"
  echo "devices: round $round"
done
echo devices: done
"#;
