#!/bin/bash
# Makes a whole camera for QEMU out of a package, and prints the folder it is in: kernel, initrd, root.ext4.
#
#     camera.sh TARGET PACKAGE.deb
#
# Debian's packages are unpacked and not configured, which would take ten minutes under emulation; what configuring them
# would do and the camera needs is done here by hand. Then the package is installed, from outside, by dpkg itself.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=$1
package=$2
. "$here/names.sh"
tree=$("$here/camera-tree.sh" "$target")
key=$(cat "$package" "$0" "$here/finish.sh" <(echo "$tree") "$here"/guest/* | sha256sum | cut -c1-16)
dir=target/arm/camera-$debian
if [ "$(cat "$dir/key" 2>/dev/null)" = "$key" ]; then
    echo "$dir"
    exit
fi
rm -rf "$dir"
mkdir -p "$dir"
root=$dir/root
"$here/copy.sh" "$tree" "$root"

# The kernel, and of its modules what disks and network want.
release=$(basename "$tree"/lib/modules/*)
cp "$tree/boot/vmlinuz-$release" "$dir/kernel"
wanted="virtio_mmio virtio_blk crc16 mbcache jbd2 crc32c_generic libcrc32c ext4 failover net_failover virtio_net virtio-rng rng-core"
mkdir "$dir/modules"
for module in $wanted; do
    find "$tree/lib/modules/$release" -name "$module.ko" -exec cp {} "$dir/modules/" \;
done

# The initrd loads them and goes over to the disk.
initrd=$dir/initrd.d
mkdir -p "$initrd"/{bin,proc,sys,dev,root}
cp "$root/bin/busybox" "$initrd/bin/"
mv "$dir/modules" "$initrd/modules"
printf '%s\n' $wanted >"$initrd/modules/order"
cp "$here/guest/init" "$initrd/init"
chmod +x "$initrd/init"
(cd "$initrd" && find . | cpio --quiet -o -H newc) | gzip -1 >"$dir/initrd"

"$here/finish.sh" "$root"
if ! "$here/install.sh" "$root" "$package" >"$dir/install.log" 2>&1; then
    cat "$dir/install.log" >&2
    exit 1
fi

# What makes a camera of it: disks, network, and a door for the test.
install -m 644 "$here/guest/fstab" "$root/etc/fstab"
install -D -m 644 "$here/guest/wire.network" "$root/etc/systemd/network/wire.network"
install -m 644 "$here/guest/door.socket" "$here/guest/door@.service" "$root/etc/systemd/system/"
systemctl --root="$root" --quiet enable systemd-networkd.service systemd-networkd-wait-online.service door.socket
# Waited for by nobody here, but its time is measured.
ln -s /usr/lib/systemd/system/network-online.target "$root/etc/systemd/system/multi-user.target.wants/"
systemctl --root="$root" --quiet mask getty.target systemd-timesyncd.service apt-daily.timer fstrim.timer e2scrub_all.timer \
    systemd-networkd-persistent-storage.service systemd-logind.service systemd-update-utmp.service

size=$(($(du -sm "$root" | cut -f1) * 115 / 100 + 64))
mke2fs -q -t ext4 -E root_owner=0:0 -d "$root" "$dir/root.ext4" "${size}M" >/dev/null
rm -rf "$root" "$initrd"
echo "$key" >"$dir/key"
echo "$dir"
