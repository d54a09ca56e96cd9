#!/bin/bash
# Builds an emulated camera for QEMU from a package, and prints its folder, which has kernel, initrd and root.ext4.
#
#     camera.sh TARGET PACKAGE.deb
#
# Debian's packages are unpacked but not configured, because that takes ten minutes under emulation. finish.sh does
# the part of it that the camera needs. Then dpkg installs the agent's package from outside.
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

# The kernel, and the modules for disks and network.
release=$(basename "$tree"/lib/modules/*)
cp "$tree/boot/vmlinuz-$release" "$dir/kernel"
wanted="virtio_mmio virtio_blk crc16 mbcache jbd2 crc32c_generic libcrc32c ext4 failover net_failover virtio_net virtio-rng rng-core"
mkdir "$dir/modules"
for module in $wanted; do
    find "$tree/lib/modules/$release" -name "$module.ko" -exec cp {} "$dir/modules/" \;
done

# The initrd loads the modules and switches to the disk.
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

# Disks, network, and a shell for the test.
install -m 644 "$here/guest/fstab" "$root/etc/fstab"
install -D -m 644 "$here/guest/wire.network" "$root/etc/systemd/network/wire.network"
install -m 644 "$here/guest/door.socket" "$here/guest/door@.service" "$root/etc/systemd/system/"
systemctl --root="$root" --quiet enable systemd-networkd.service systemd-networkd-wait-online.service door.socket
# Nothing here waits for it, but the tests measure when it is reached.
ln -s /usr/lib/systemd/system/network-online.target "$root/etc/systemd/system/multi-user.target.wants/"
systemctl --root="$root" --quiet mask getty.target systemd-timesyncd.service apt-daily.timer fstrim.timer e2scrub_all.timer \
    systemd-networkd-persistent-storage.service systemd-logind.service systemd-update-utmp.service

size=$(($(du -sm "$root" | cut -f1) * 115 / 100 + 64))
mke2fs -q -t ext4 -E root_owner=0:0 -d "$root" "$dir/root.ext4" "${size}M" >/dev/null
rm -rf "$root" "$initrd"
echo "$key" >"$dir/key"
echo "$dir"
