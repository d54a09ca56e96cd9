#!/bin/bash
# Builds the firmware as it goes to flash: with Debian's newest Rust (scripts/rust.sh), stripped, with its debug
# information beside it. Fails if a program is larger than its budget.
#
#     arm.sh [TARGET…]
#
# TARGET is one of arm/names.sh; all but x86_64 by default. Those with `musl` in their names are static programs without
# GStreamer, the others link Debian's GStreamer. The programs are in target/arm/TARGET/firmware. Keep
# kasa-care-agent.debug for crash reports: gdb finds it by the build id, and `addr2line -e kasa-care-agent.debug
# ADDRESS` names a line.
set -euo pipefail
cd "$(dirname "$0")/.."

# budgets: sets how many bytes of flash a camera has for the program of $target, as a file, and compressed by squashfs or
# a package (xz); 0 is no limit.
budgets() {
    case $target in
    armv7-unknown-linux-musleabihf) budget=2200000 xz=1150000 ;;
    # MIPS code is larger, and compresses better.
    mipsel-unknown-linux-musl) budget=3800000 xz=1250000 ;;
    armv7-unknown-linux-gnueabihf) budget=3000000 xz=0 ;;
    # Not measured yet, or not for flash.
    *) budget=0 xz=0 ;;
    esac
}

# The same commit gives the same program. The build time is also the lower bound of trusted time.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

# Builds $target, splits off debug information as Debian does, checks the size.
build() {
    local built=target/arm/$target/release/kasa-care-agent into=target/arm/$target/firmware features= budget xz
    if [ "$libc" = musl ]; then
        features=--no-default-features
    fi
    budgets
    scripts/arm/cargo.sh "$target" build --locked --release -p kasa-care-agent --bin kasa-care-agent $features
    mkdir -p "$into"
    "$gnu-objcopy" --only-keep-debug --compress-debug-sections "$built" "$into/kasa-care-agent.debug"
    "$gnu-objcopy" --strip-all --remove-section=.comment --add-gnu-debuglink="$into/kasa-care-agent.debug" \
        "$built" "$into/kasa-care-agent"
    scripts/arm/budget.sh "$into/kasa-care-agent" "$budget" "$xz"
}

targets=("$@")
if [ $# = 0 ]; then
    targets=(armv7-unknown-linux-musleabihf armv5te-unknown-linux-musleabi aarch64-unknown-linux-musl mipsel-unknown-linux-musl
        armv7-unknown-linux-gnueabihf aarch64-unknown-linux-gnu)
fi
for target in "${targets[@]}"; do
    . scripts/arm/names.sh
    build
done
