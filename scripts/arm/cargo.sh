#!/bin/sh
# Runs cargo for a camera's processor with Debian's Rust, GCC and libraries, and runs what it builds under qemu-user:
#
#     cargo.sh TARGET build --release …
#
# For a target with `musl` in its name pass --no-default-features: the program is static and has no GStreamer. The
# first use fetches and unpacks compiler and libraries into the cache and installs nothing. The standard library is
# built from the compiler's own source, so that every target has one. Programs are built in target/arm/TARGET.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=$1
shift
. "$here/names.sh"
command=$1
shift

if ! command -v "$gnu-gcc" >/dev/null; then
    echo "cargo.sh: no C compiler for $target: $gnu-gcc is missing. Install it with scripts/deps.sh arm" >&2
    exit 1
fi
rustc=$("$here/../rust.sh")
upper=$(echo "$target" | tr a-z- A-Z_)
lower=$(echo "$target" | tr - _)
# Cargo and rustc want this before they build a standard library. It also lets crates use what is not stable yet, and
# some ask the compiler whether they may; our own are held to stable Rust by clippy and the host's build.
export RUSTC="$rustc" RUSTC_BOOTSTRAP=1
export "CARGO_TARGET_${upper}_LINKER=$gnu-gcc" "CC_$lower=$gnu-gcc" "AR_$lower=$gnu-ar"
flags="$rustflags -Clink-arg=-Wl,--build-id=sha1"
library=std,panic_abort
features=
if [ "$command" = test ]; then
    # A test that fails unwinds.
    library=std,panic_unwind
else
    # Line numbers for crash reports. Whoever ships a program strips it.
    export CARGO_PROFILE_RELEASE_DEBUG=line-tables-only CARGO_PROFILE_RELEASE_STRIP=none
fi
if [ "$libc" = musl ]; then
    musl=$("$here/musl.sh" "$target")
    export "CFLAGS_$lower=-specs=$musl/gcc.specs $cflags"
    unwinder=unwinding
    if [ "$command" = test ]; then
        case $target in
        # libgcc takes its lock through weak symbols. Unless something else links them it calls address 0.
        aarch64* | mipsel*) flags="$flags -Clink-arg=-Wl,-u,pthread_mutex_lock,-u,pthread_mutex_unlock,-u,pthread_once" ;;
        esac
    else
        # A panic stops the program at once. Its message, which nobody reads on a camera, is not in the program;
        # neither are what would format it and the tables for unwinding.
        unwinder=aborting
        flags="$flags -Zunstable-options -Cpanic=immediate-abort -Cforce-unwind-tables=no"
        case $target in
        arm*) flags="$flags -Clink-arg=-Wl,-T,$here/without-exidx.ld" ;;
        esac
        features=-Zbuild-std-features=optimize_for_size
    fi
    flags="$flags -Ctarget-feature=+crt-static -Crelocation-model=static -Clink-self-contained=no -L$musl/$unwinder
        -Clink-arg=-specs=$musl/gcc.specs -Clink-arg=-lunwind -Clink-arg=-lc -Clink-arg=-lgcc"
    runner="$qemu"
else
    sysroot=$("$here/sysroot.sh" "$target")
    flags="$flags -Clink-arg=--sysroot=$sysroot"
    export "CFLAGS_$lower=--sysroot=$sysroot $cflags"
    export PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_SYSROOT_DIR="$sysroot"
    export PKG_CONFIG_LIBDIR="$sysroot/usr/lib/$gnu/pkgconfig:$sysroot/usr/share/pkgconfig"
    # qemu-user must read GStreamer's registry and plugins of the target, not of this machine.
    export ARM_SYSROOT="$sysroot" ARM_PLUGINS="$sysroot/usr/lib/$gnu/gstreamer-1.0"
    runner="$here/run.sh $target"
fi
# Keep paths of this machine out of what is built.
for remapped in "$PWD=." "${CARGO_HOME:-$HOME/.cargo}=cargo" "${XDG_CACHE_HOME:-$HOME/.cache}/kasa-care-agent=cache"; do
    flags="$flags --remap-path-prefix=$remapped"
done
# A child that qemu-user 7.2 forks can inherit the locked slice allocator of qemu's own GLib, and then waits forever
# before its exec, as the test does for it (QEMU issue 285). malloc's locks survive a fork.
export G_SLICE=always-malloc
export "CARGO_TARGET_${upper}_RUSTFLAGS=$flags" "CARGO_TARGET_${upper}_RUNNER=$runner"
# shellcheck disable=SC2086 # nothing, or one word
exec "${CARGO:-cargo}" "$command" --target "$target" --target-dir "${ARM_TARGET_DIR:-target/arm}" -Zbuild-std="$library" $features "$@"
