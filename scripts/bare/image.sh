#!/bin/bash
# Builds the image of a bare camera for QEMU, and prints its folder: Debian's kernel, an initrd for each board, and a
# squashfs of BusyBox with the firmware's tarball unpacked in it.
#
#     image.sh FIRMWARE.tar.xz STREAMER
#
# STREAMER is the static program that serves the recording over RTSP, in place of the vendor's. Two boards: `virt` has
# virtio disks; `nor` (ast2600-evb) has what a camera has, two SPI NOR flashes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
firmware=$1
streamer=$2
tree=$("$here/../arm/camera-tree.sh" armv7-unknown-linux-gnueabihf)
dir=target/bare/image
key=$(cat "$firmware" "$streamer" "$0" "$here"/guest/* <(echo "$tree") | sha256sum | cut -c1-16)
if [ "$(cat "$dir/key" 2>/dev/null)" = "$key" ]; then
    echo "$dir"
    exit
fi
rm -rf "$dir"
mkdir -p "$dir"
release=$(basename "$tree"/lib/modules/*)
cp "$tree/boot/vmlinuz-$release" "$dir/kernel"
cp "$tree/usr/lib/linux-image-$release/aspeed-ast2600-evb.dtb" "$dir/nor.dtb"

# In the order in which they are loaded.
common="squashfs overlay fat vfat nls_cp437 nls_ascii"
virt="virtio_mmio virtio_blk $common exfat crc16 mbcache jbd2 crc32c_generic ext4 failover net_failover virtio_net rng-core virtio-rng"
nor="spi-nor spi-aspeed-smc mtd_blkdevs mtdblock $common jffs2 libphy fwnode_mdio fixed_phy of_mdio mdio_devres mdio-aspeed realtek ftgmac100"
for board in virt nor; do
    initrd=$dir/$board.d
    mkdir -p "$initrd"/{bin,proc,sys,dev,sysroot,rom,overlay,modules}
    cp "$tree/bin/busybox" "$initrd/bin/"
    install -m 755 "$here/guest/init" "$initrd/init"
    for module in ${!board}; do
        echo "$module"
        find "$tree/lib/modules/$release" -name "$module.ko" -exec cp {} "$initrd/modules/" \;
    done >"$initrd/modules/order"
    (cd "$initrd" && find . | sort | cpio --quiet -o -H newc -R 0:0) | xz --check=crc32 --lzma2=dict=1MiB >"$dir/$board.initrd"
    rm -rf "$initrd"
done

root=$dir/root
mkdir -p "$root"/{bin,sbin,dev,proc,sys,tmp,run,rom,overlay,mnt,root,usr/bin,usr/sbin,etc/udhcpc,usr/share/streamer,var/lib,etc/init.d}
cp "$tree/bin/busybox" "$root/bin/busybox"
qemu-arm-static "$root/bin/busybox" --list-full | while read -r applet; do
    [ "$applet" = bin/busybox ] || ln -sf /bin/busybox "$root/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nkasa-care-agent:x:200:200::/var/lib/kasa-care-agent:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nkasa-care-agent:x:200:\n' >"$root/etc/group"
printf '127.0.0.1\tlocalhost\n' >"$root/etc/hosts"
ln -s /tmp/resolv.conf "$root/etc/resolv.conf"
ln -s /run "$root/var/run"
install -m 644 "$here/guest/inittab" "$root/etc/inittab"
install -m 755 "$here"/guest/{rcS,rcK,S*} "$root/etc/init.d/"
install -m 755 "$here/guest/default.script" "$root/etc/udhcpc/default.script"
install -m 755 "$streamer" "$root/usr/bin/streamer"
# What the vendor's streamer would show: 640×360, 15 frames and 1 Mbit a second, with movement everywhere.
ffmpeg -nostdin -v error -f lavfi -i 'testsrc2=size=640x360:rate=15,noise=alls=30:allf=t' -t 10 -pix_fmt yuv420p \
    -c:v libx264 -preset veryfast -profile:v main -bf 0 -g 15 -sc_threshold 0 -b:v 1M -maxrate 1M -bufsize 100k \
    -f h264 "$root/usr/share/streamer/picture.h264"
unpacked=$dir/firmware
mkdir "$unpacked"
tar -C "$unpacked" --strip-components=1 -xJf "$firmware"
(cd "$unpacked" && sha256sum --check --quiet --strict SHA256SUMS)
cp -a "$unpacked/rootfs/." "$root/"
rm -rf "$unpacked"
mksquashfs "$root" "$dir/root.squashfs" -comp xz -b 128K -all-root -noappend -no-progress -quiet >/dev/null
rm -rf "$root"
echo "$key" >"$dir/key"
echo "$dir"
