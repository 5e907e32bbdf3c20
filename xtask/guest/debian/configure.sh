# What the installer would ask, and the packages beyond the base system. Runs in the new system.
set -e
codename=$1
image=$2

echo debian > /etc/hostname
printf '127.0.0.1 localhost debian\n' > /etc/hosts
echo "UUID=$(blkid -s UUID -o value /dev/vda1) / ext4 errors=remount-ro 0 1" > /etc/fstab
printf '[Match]\nName=en*\n[Network]\nDHCP=yes\n' > /etc/systemd/network/wired.network
systemctl enable systemd-networkd

# The console is the serial line; whoever has it is root.
mkdir -p /etc/systemd/system/serial-getty@ttyS0.service.d
printf '[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear %%I vt220\n' \
  > /etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf
printf '\necho "debian: logged in"\n' >> ~root/.profile

# An emulated machine is slow: with all drivers its devices are found in minutes, where systemd waits 90 s.
mkdir -p /etc/systemd/system.conf.d
printf '[Manager]\nDefaultDeviceTimeoutSec=15min\nDefaultTimeoutStartSec=15min\n' > /etc/systemd/system.conf.d/slow.conf

mkdir -p /etc/default/grub.d
cat > /etc/default/grub.d/serial.cfg <<EOF
GRUB_TIMEOUT=0
GRUB_CMDLINE_LINUX_DEFAULT=
GRUB_CMDLINE_LINUX="console=ttyS0,115200 panic=-1"
GRUB_TERMINAL=serial
EOF

echo "deb [trusted=yes] file:/archive $codename main" > /etc/apt/sources.list
apt-get update
echo "grub-pc grub-pc/install_devices multiselect /dev/vda" | debconf-set-selections
apt-get install -y --no-install-recommends $image grub-pc openssh-server dbus libpam-systemd
grub-install /dev/vda
update-grub

# A disk called "secvisor" adds its own entries to the menu.
cat > /boot/grub/custom.cfg <<'EOF'
search --no-floppy --label --set=secvisor secvisor
if [ -f ($secvisor)/grub.cfg ]; then
  source ($secvisor)/grub.cfg
fi
EOF
echo "deb [trusted=yes] file:/mnt/later $codename main" > /etc/apt/sources.list
apt-get clean
