#!/bin/sh
# Makes sure that what a goal needs from the system is there, and installs with apt what is missing.
#
#   tools/system-packages.sh GOAL...      goals: build demo examples test bench
#
# What is there is found out by looking (a command, a header), never by asking a package database,
# so that a compiler or a Python of one's own counts. Prints nothing where nothing is missing.
set -eu
PATH=$PATH:/usr/sbin:/sbin
top=$(cd "$(dirname "$0")/.." && pwd)
missing=

need() { # need PACKAGE CHECK...: the package is wanted where the check fails
	package=$1
	shift
	"$@" >/dev/null 2>&1 || missing="$missing $package"
}
command_there() { command -v "$1"; }
header_there() { echo "#include <$1>" | gcc -E -x c - -o /dev/null; }
links_32_bit() { echo "#include <stdlib.h>
int main(void) { return 0; }" | gcc -m32 -pthread -x c - -o /dev/null; }
library_there() { ls /lib*/"$1"* /lib/*/"$1"* /usr/lib*/"$1"* /usr/lib/*/"$1"* 2>/dev/null | grep -q .; }
python_there() { "$top/tools/find-python.sh"; }

for goal in "$@"; do
	case $goal in
	build)
		need gcc command_there gcc
		need libc6-dev header_there stdlib.h
		need libcap-dev header_there sys/capability.h
		need libseccomp2 library_there libseccomp.so.2
		need uidmap command_there newuidmap
		# Where no Python will do, Debian's own is taken, whole.
		need "python3 python3-venv python3-dev" python_there
		;;
	demo)
		need tar command_there tar
		need cpio command_there cpio
		need e2fsprogs command_there mkfs.ext4
		need fuse2fs command_there fuse2fs
		;;
	examples)
		need runc command_there runc
		need squashfuse command_there squashfuse
		need squashfs-tools command_there mksquashfs
		;;
	test)
		need tar command_there tar
		need cpio command_there cpio
		need rsync command_there rsync
		need curl command_there curl
		need nginx-light command_there nginx
		need bind9-dnsutils command_there dig
		need netcat-openbsd command_there nc
		need libarchive-tools command_there bsdtar
		need busybox-static command_there busybox
		need jq command_there jq
		need perl command_there perl
		need debootstrap command_there debootstrap
		need mmdebstrap command_there mmdebstrap
		need makedev command_there MAKEDEV
		need gcc-multilib links_32_bit
		need acl command_there setfacl
		need e2fsprogs command_there chattr
		need util-linux command_there unshare
		need mount command_there mount
		need fuse2fs command_there fuse2fs
		need squashfs-tools command_there mksquashfs
		need squashfuse command_there squashfuse
		need fuse3 command_there fusermount3
		need ntfs-3g command_there mkntfs
		need exfat-fuse command_there mount.exfat-fuse
		need exfatprogs command_there mkfs.exfat
		need xfsprogs command_there mkfs.xfs
		need btrfs-progs command_there mkfs.btrfs
		need erofs-utils command_there mkfs.erofs
		need dosfstools command_there mkfs.vfat
		need passwd command_there useradd
		need procps command_there ps
		need runc command_there runc
		need crun command_there crun
		need containerd command_there containerd
		need systemd command_there systemd-analyze
		need lxc command_there lxc-start
		need "podman conmon golang-github-containers-common uidmap" command_there podman
		;;
	bench)
		need lxc command_there lxc-start
		need e2fsprogs command_there mkfs.ext4
		need fuse2fs command_there fuse2fs
		need util-linux command_there unshare
		need haproxy command_there haproxy
		;;
	*)
		echo "system-packages: unknown goal '$goal'" >&2
		exit 2
		;;
	esac
done
missing=$(printf '%s\n' $missing | sort -u | tr '\n' ' ')
[ -n "${missing% }" ] || exit 0

command -v apt-get >/dev/null 2>&1 || {
	echo "These are missing (named as Debian names them): $missing" >&2
	echo "There is no apt-get here: install them your system's way, then run this again." >&2
	exit 1
}
as_root=
if [ "$(id -u)" != 0 ]; then
	as_root=sudo
	command -v sudo >/dev/null 2>&1 || {
		echo "These packages are missing: $missing" >&2
		echo "You are not root and there is no sudo. As root, run:" >&2
		echo "    apt-get install -y --no-install-recommends $missing" >&2
		exit 1
	}
fi
echo "Installing with apt: $missing"
install() {
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o=Dpkg::Use-Pty=0 \
		install -y --no-install-recommends $missing >"$log" 2>&1
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Old package lists are the usual reason for a failure: get new ones, and try once more.
install || { $as_root apt-get -qq update && install; } || {
	cat "$log" >&2
	echo "apt-get could not install: $missing" >&2
	exit 1
}
