#!/bin/sh
# Prints the path of a target's Debian system: the libraries that the agent is linked with, and the GStreamer elements
# that its tests use.
#
#     sysroot.sh TARGET
set -eu
here=$(dirname "$0")
target=$1
. "$here/names.sh"
exec "$here/tree.sh" "$debian" libc6-dev libgcc-12-dev libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev \
    gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly
