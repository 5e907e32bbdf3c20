# What a Debian does and says of itself, as "story: WHAT: ...": the same without SecVisor and beneath it.
say() { echo "story: $*"; }

# What the shell writes before it runs a command ends here.
echo
dmesg -n 1
say state: $(systemctl is-system-running --wait)
systemctl --failed --plain --no-legend | while read unit rest; do say failed: $unit; done
for unit in cron dbus ssh systemd-journald systemd-logind systemd-networkd systemd-udevd; do
  say unit: $unit $(systemctl is-active $unit)
done
# Which session it was that missed /etc/default/locale depends on when cron begins.
journalctl --boot --quiet --priority err --output cat | sed 's/^pam_env([a-z]*:/pam_env(/' | sort -u |
  while read -r line; do say error: "$line"; done
say tainted: $(cat /proc/sys/kernel/tainted)
# The system runs before udev has loaded all drivers.
for i in $(seq 120); do ip -4 route show default | grep -q . && break; sleep 1; done
say network: $(ip -4 -o addr show scope global | tr -s ' ' | cut -d ' ' -f 4)
ping -q -c 3 10.0.2.2 > /dev/null && say ping: works
grep -q debian /etc/hostname && say disk: $(stat -f -c %T /)

case $1 in
install)
  ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519
  cp ~/.ssh/id_ed25519.pub ~/.ssh/authorized_keys
  useradd --create-home somebody
  echo '* * * * * root touch /run/cron-was-here' > /etc/cron.d/story

  # Programs for seccomp, for cgroups' devices and for packets, which systemd has the kernel run.
  say sandbox: $(systemd-run --quiet --wait --pipe -p DynamicUser=yes -p PrivateDevices=yes -p ProtectSystem=strict \
    -p SystemCallFilter=@system-service -p RestrictAddressFamilies=AF_UNIX -p MemoryDenyWriteExecute=yes \
    -p IPAddressDeny=any -p SocketBindDeny=any -p RestrictFileSystems=~tmpfs \
    sh -c '[ $(id -u) -ge 61184 ] && echo dynamic user')

  say packages before: $(dpkg-query -W -f '${Package}\n' | grep -c .)
  apt-get -qq update
  apt-get -qq install --yes --no-install-recommends wireguard-tools > /run/apt.log 2>&1 || cat /run/apt.log
  say packages after: $(dpkg-query -W -f '${Package}\n' | grep -c .)
  for i in $(seq 100); do [ -e /run/cron-was-here ] && break; sleep 1; done
  [ -e /run/cron-was-here ] && say cron: ran
  ;;
check)
  rm /etc/cron.d/story
  ;;
esac

say ssh: $(ssh -o StrictHostKeyChecking=no -o LogLevel=ERROR localhost 'id -un; systemctl is-active user@0')
say user: $(su - somebody -c 'id -un; pwd')
say installed: $(dpkg-query -W -f '${Status}' wireguard-tools)
ip link add wg0 type wireguard
wg genkey | wg set wg0 listen-port 51820 private-key /dev/stdin
say wireguard: $(wg show wg0 listen-port) $(lsmod | grep -c '^wireguard ')
ip link del wg0
say end
