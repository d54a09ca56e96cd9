#!/bin/bash
# `make demo` on a Debian 12 that has nothing but make: proves that its group in deps.sh is enough, and how much that
# is.
#
# Needs root and mmdebstrap (`scripts/deps.sh proof`). Rust comes from this machine; the rest is installed inside a
# directory that is removed at the end. Nothing that is built here is shared with the work tree's own build.
set -euo pipefail
cd "$(dirname "$0")/.."

# The demo's packages are few because these are not among them.
for package in rabbitmq-server qemu-system-arm chromium; do
    if scripts/deps.sh --list demo | grep -qx "$package"; then
        echo "test-demo.sh: the demo does not need $package; take it out of its group in scripts/deps.sh" >&2
        exit 1
    fi
done

mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
cargo_home=${CARGO_HOME:-$HOME/.cargo}
rustup_home=${RUSTUP_HOME:-$HOME/.rustup}
scratch=$(mktemp -d)
trap 'rm -rf --one-file-system "$scratch"' EXIT
root=$scratch/root
mmdebstrap --quiet --variant=minbase --include=make bookworm "$root" "deb $mirror bookworm main" 2>"$scratch/log" || {
    cat "$scratch/log" >&2
    exit 1
}
mkdir -p "$root/source" "$root/rust/cargo" "$root/rust/rustup" "$PWD/target/clean-demo"
cp /etc/resolv.conf "$root/etc/resolv.conf"

# The mounts end with the namespace.
inside='
    set -eu
    mount --bind "$2" "$1/source"
    mount --bind "$3" "$1/rust/cargo"
    mount --bind "$4" "$1/rust/rustup"
    mount -t proc proc "$1/proc"
    mount --rbind /dev "$1/dev"
    exec chroot "$1" env -i HOME=/root PATH=/rust/cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin CARGO_HOME=/rust/cargo \
        RUSTUP_HOME=/rust/rustup RUSTUP_AUTO_INSTALL=0 CARGO_TARGET_DIR=/source/target/clean-demo \
        ${CARGO_BUILD_JOBS:+CARGO_BUILD_JOBS=$CARGO_BUILD_JOBS} ONCE=1 make -C /source --no-print-directory demo'
unshare --mount --pid --fork --propagation private sh -c "$inside" sh "$root" "$PWD" "$cargo_home" "$rustup_home" |
    tee "$scratch/said"

# The story ends with its figures; every step held, or the demo would have failed.
tail -n 1 "$scratch/said" | grep -q '"cut_micros":[0-9]' || {
    echo "test-demo.sh: the demo did not end with its figures" >&2
    exit 1
}
installed=$(chroot "$root" dpkg-query -W -f '${db:Status-Status}\n' | grep -c '^installed$')
echo "test-demo.sh: the demo runs on a clean Debian 12 with the $(scripts/deps.sh --list demo | wc -l) packages of its group ($installed with theirs)"
