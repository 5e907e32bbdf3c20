# Installs Debian on /dev/vda. Runs in a guest, in the unpacked but not configured packages; /archive is what is installed.
set -e
codename=$1
image=$2
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive

say() { echo "install: $*"; }

# What the packages' own scripts would have set.
[ -e /bin/sh ] || ln -s dash /bin/sh
[ -e /usr/bin/awk ] || ln -s mawk /usr/bin/awk

for archive in /archive /later; do
  cd $archive/dists/$codename
  list=main/binary-amd64/Packages
  {
    echo "Suite: $codename"
    echo "Codename: $codename"
    echo "Components: main"
    echo "Architectures: amd64"
    echo "SHA256:"
    echo " $(sha256sum < $list | cut -d ' ' -f 1) $(stat -c %s $list) $list"
  } > Release
done
cd /

say disk
printf 'label: dos\nstart=2048, type=83, bootable\n' | sfdisk -q /dev/vda
mkfs.ext4 -q -L debian /dev/vda1
mount /dev/vda1 /target

say base system
debootstrap --no-check-gpg $codename /target file:///archive

say kernel, boot loader and server
for directory in dev proc sys archive; do
  mkdir -p /target/$directory
  mount --bind /$directory /target/$directory
done
# As udev would have it: GRUB names the root file system by it.
mkdir -p /dev/disk/by-uuid
ln -s ../../vda1 /dev/disk/by-uuid/$(blkid -s UUID -o value /dev/vda1)
cp /install/configure.sh /target/configure.sh
chroot /target sh /configure.sh $codename $image
rm /target/configure.sh
for directory in archive sys proc dev; do
  umount /target/$directory
done
rmdir /target/archive
umount /target
say done
