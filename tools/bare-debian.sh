#!/bin/sh
# Proof on a bare Debian: a fresh minimal tree gets what the README's one line installs, and then
# `make demo` has to work as root and as an ordinary user, and `make test-fast` as root.
#
#   tools/bare-debian.sh [SUITE]          SUITE: bookworm (the default), trixie, ...
#   BARE_GOALS="demo"             make's goals for root
#   BARE_USER_GOALS="demo doctor" then those for the ordinary user
#   BARE_LAST_GOALS="test-fast"   and then again for root
#   BARE_TREE=DIR          a minimal tree to start from (made where it is not there, and kept)
#
# Needs root and debootstrap. The tree is entered by pivot_root: the kernel refuses user namespaces
# in a chroot. How packages are fetched is taken over from this machine: apt's sources and Acquire
# settings, pip's configuration, extra certificates. Leaves no mount and no tree behind.
set -eu
suite=${1:-bookworm}
goals=${BARE_GOALS:-demo}
user_goals=${BARE_USER_GOALS:-demo doctor}
last_goals=${BARE_LAST_GOALS:-test-fast}
top=$(cd "$(dirname "$0")/.." && pwd)

[ "$(id -u)" = 0 ] || { echo "bare-debian: has to run as root" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "bare-debian: apt-get install debootstrap" >&2; exit 1; }

work=$(mktemp -d "${TMPDIR:-/var/tmp}/seccompd-bare.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root
base=${BARE_TREE:-$work/base}

if [ ! -e "$base/etc/debian_version" ]; then
	mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | head -n 1)
	echo "bare-debian: debootstrap --variant=minbase $suite"
	debootstrap --variant=minbase "$suite" "$base" ${mirror:+"$mirror"} >"$work/log" 2>&1 ||
		{ tail -n 20 "$work/log" >&2; exit 1; }
fi
cp -a "$base" "$root"

# What this machine fetches packages with.
if [ "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" = "$suite" ]; then
	rm -f "$root/etc/apt/sources.list"
	for part in sources.list sources.list.d keyrings trusted.gpg.d; do
		[ ! -e "/etc/apt/$part" ] || cp -a "/etc/apt/$part" "$root/etc/apt/"
	done
fi
apt-config dump Acquire >"$root/etc/apt/apt.conf.d/00machine"
mkdir -p "$root/usr/local/share/ca-certificates" "$root/etc/xdg/pip"
cp -a /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
[ ! -e /etc/pip.conf ] || cp -L /etc/pip.conf "$root/etc/pip.conf"
[ ! -e "$HOME/.config/pip/pip.conf" ] || cp -L "$HOME/.config/pip/pip.conf" "$root/etc/xdg/pip/pip.conf"
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
[ -e "$root/etc/mtab" ] || ln -s ../proc/self/mounts "$root/etc/mtab"
env | grep -iE '^(pip_[a-z_]*|https?_proxy|no_proxy)=' | sed "s/'/'\\\\''/g; s/=\(.*\)/='\1'/; s/^/export /" \
	>"$root/etc/machine.env" || true

# The project as it stands here, without what was built.
mkdir -p "$root/srv/seccompd"
(cd "$top" && git ls-files -z --cached --others --exclude-standard |
	tar --null --ignore-failed-read -T - -c 2>/dev/null) | tar -x -C "$root/srv/seccompd"

line=$(sed -n '/^    apt-get .*install/{s/^ *//p;q}' "$top/README.md")
[ -n "$line" ] || { echo "bare-debian: README.md has lost its apt-get line" >&2; exit 1; }
cat >"$root/proof" <<END
set -eu
. /etc/machine.env
say() { printf '\n#### bare-debian: %s\n' "\$*"; }
say '$line'
{ $line; } >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }
useradd -m -s /bin/sh ordinary
cp -r /srv/seccompd /root/seccompd
cp -r /srv/seccompd /home/ordinary/seccompd
chown -R ordinary: /home/ordinary/seccompd
cd /root/seccompd
for goal in $goals; do
	say "make \$goal, as root"
	make "\$goal"
done
for goal in $user_goals; do
	say "make \$goal, as an ordinary user"
	su ordinary -c ". /etc/machine.env; cd ~/seccompd && make \$goal"
done
for goal in $last_goals; do
	say "make \$goal, as root"
	make "\$goal"
done
say "all of it works on a bare Debian (\$(cat /etc/debian_version))"
END

unshare --mount --pid --fork --kill-child --propagation private sh -euc 'root=$0
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
cd "$root"
pivot_root . .
umount -l .
cd /
exec env -i HOME=/root TERM="${TERM:-dumb}" PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \
	sh /proof' "$root"
