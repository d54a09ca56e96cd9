#!/bin/sh
# Runs cargo for an ARM target with Debian's Rust 1.85, GCC and libraries, and runs what it builds under qemu-user:
#
#     cargo.sh TARGET build --release …
#
# The first use fetches and unpacks all of these into the cache and installs nothing. Programs are built in
# target/arm/TARGET.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=$1
shift
. "$here/names.sh"
command=$1
shift

rustc=$("$here/../rust-1.85.sh")
sysroot=$("$here/sysroot.sh" "$target")
# The compiler looks for a target's standard library beside its own.
beside=$(dirname "$rustc")/usr/lib/rustlib/$target
if [ -L "$beside" ] || [ ! -e "$beside" ]; then
    ln -sfn "$sysroot/usr/lib/rustlib/$target" "$beside"
fi

upper=$(echo "$target" | tr a-z- A-Z_)
lower=$(echo "$target" | tr - _)
plugins=$sysroot/usr/lib/$gnu/gstreamer-1.0
export RUSTC="$rustc"
export "CARGO_TARGET_${upper}_LINKER=$gnu-gcc"
flags=
if [ "$debian" = armhf ]; then
    # Thumb-2 instructions: every ARMv7 has them, and the code is a quarter smaller. Rust still calls the flag
    # unstable.
    flags=-Ctarget-feature=+thumb-mode
fi
export "CARGO_TARGET_${upper}_RUSTFLAGS=$flags -Clink-arg=--sysroot=$sysroot -Clink-arg=-Wl,--build-id=sha1 ${ARM_RUSTFLAGS:-}"
# qemu-user must read GStreamer's registry and plugins of the target, not of this machine.
export "CARGO_TARGET_${upper}_RUNNER=$here/run.sh $target"
export "CC_$lower=$gnu-gcc" "AR_$lower=$gnu-ar" "CFLAGS_$lower=--sysroot=$sysroot"
export PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_SYSROOT_DIR="$sysroot"
export PKG_CONFIG_LIBDIR="$sysroot/usr/lib/$gnu/pkgconfig:$sysroot/usr/share/pkgconfig"
export ARM_SYSROOT="$sysroot" ARM_PLUGINS="$plugins"
exec "${CARGO:-cargo}" "$command" --target "$target" --target-dir "${ARM_TARGET_DIR:-target/arm}" "$@"
