#!/bin/bash
# Does in an unpacked Debian system the part of the packages' maintainer scripts that a camera needs. The scripts
# themselves would take ten minutes under emulation.
#
#     finish.sh ROOT
set -euo pipefail
root=$1
# /bin, /sbin and /lib become links into /usr.
for part in bin sbin lib; do
    if [ ! -L "$root/$part" ]; then
        cp -a "$root/$part/." "$root/usr/$part/"
        rm -rf "${root:?}/$part"
        ln -s "usr/$part" "$root/$part"
    fi
done
ln -sfn /run "$root/var/run"
ln -sf bash "$root/usr/bin/sh"
cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
: >"$root/etc/machine-id"
echo camera >"$root/etc/hostname"
systemd-sysusers --root="$root" 2>/dev/null
ldconfig -r "$root"
# Without these lists dpkg warns about each package.
while read -r name; do
    : >"$root/var/lib/dpkg/info/$name.list"
done < <(awk '/^Package:/ { name = $2 } /^Architecture:/ { arch = $2 } /^Multi-Arch:/ { same = $2 == "same" }
    /^$/ { print same ? name ":" arch : name; same = 0 }' "$root/var/lib/dpkg/status")
