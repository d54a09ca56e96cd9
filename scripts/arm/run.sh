#!/bin/sh
# Runs one ARM program under qemu-user, with its libraries and GStreamer elements from the target's system: cargo's runner in
# cargo.sh, which sets ARM_SYSROOT and ARM_PLUGINS.
#
#     run.sh TARGET PROGRAM [ARGUMENT…]
set -eu
target=$1
shift
. "$(dirname "$0")/names.sh"
# A registry of its own: this machine's lists this machine's plugins. The helper that would scan them is no program of this
# machine's, so GStreamer scans for itself.
export GST_PLUGIN_SYSTEM_PATH_1_0="$ARM_PLUGINS" GST_REGISTRY="${ARM_REGISTRY:-$ARM_SYSROOT.registry}" GST_REGISTRY_FORK=no
exec "$qemu" -L "$ARM_SYSROOT" "$@"
