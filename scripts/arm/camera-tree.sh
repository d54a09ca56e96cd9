#!/bin/sh
# Prints the path of an unpacked Debian system with the dependencies of the agent's package, and whatever an emulated
# camera needs to boot. camera.sh and test-deb.sh share it, so it is fetched once.
#
#     camera-tree.sh TARGET
set -eu
here=$(dirname "$0")
target=$1
. "$here/names.sh"
case $debian in
armhf) kernel=linux-image-armmp ;;
*) kernel=linux-image-$debian ;;
esac
exec "$here/tree.sh" "$debian" "$kernel" busybox-static base-files base-passwd dpkg systemd systemd-sysv udev dbus iproute2 kmod \
    coreutils bash dash util-linux mount procps netbase ca-certificates grep sed init-system-helpers libgstreamer1.0-0 \
    gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
