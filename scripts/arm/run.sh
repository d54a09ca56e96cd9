#!/bin/sh
# Runs one ARM program under qemu-user, with libraries and GStreamer elements of the target's system. It is cargo's
# runner in cargo.sh, which sets ARM_SYSROOT and ARM_PLUGINS.
#
#     run.sh TARGET PROGRAM [ARGUMENT…]
set -eu
target=$1
shift
. "$(dirname "$0")/names.sh"
# A registry of its own, because this machine's lists this machine's plugins. GStreamer's scanner is an ARM program
# that cannot start by itself, so GStreamer scans in the process.
export GST_PLUGIN_SYSTEM_PATH_1_0="$ARM_PLUGINS" GST_REGISTRY="${ARM_REGISTRY:-$ARM_SYSROOT.registry}" GST_REGISTRY_FORK=no
exec "$qemu" -L "$ARM_SYSROOT" "$@"
