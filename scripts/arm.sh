#!/bin/bash
# Builds the ARM firmware as it goes to flash: with Debian 12's Rust 1.85 and libraries, stripped, with its debug
# information beside it. Fails if an armv7 program is larger than its budget.
#
#     arm.sh [TARGET…]
#
# TARGET is armv7-unknown-linux-gnueabihf or aarch64-unknown-linux-gnu; both by default. The programs are in
# target/arm/TARGET/firmware, those without GStreamer in firmware-without-gstreamer. Keep kasa-care-agent.debug for
# crash reports: gdb finds it by the build id, and `addr2line -e kasa-care-agent.debug ADDRESS` names a line.
set -euo pipefail
cd "$(dirname "$0")/.."

# Bytes of flash that an armv7 camera has for the agent. aarch64 has no budget: its code is larger, and so is its
# flash.
budget_with=3000000
budget_without=2300000

# The same commit gives the same program. The build time is also the lower bound of trusted time.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
# Keep paths of this machine out of the program.
export ARM_RUSTFLAGS="--remap-path-prefix=$PWD=. --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
# Line numbers for crash reports; `build` below strips the program and keeps them.
export CARGO_PROFILE_RELEASE_DEBUG=line-tables-only CARGO_PROFILE_RELEASE_STRIP=none

# build NAME BUDGET [CARGO ARGUMENT…]: builds into the folder NAME, splits off debug information as Debian does,
# checks the size.
build() {
    local name=$1 budget=$2 built=target/arm/$target/release/kasa-care-agent into=target/arm/$target/$1
    shift 2
    scripts/arm/cargo.sh "$target" build --locked --release -p kasa-care-agent --bin kasa-care-agent "$@"
    mkdir -p "$into"
    "$gnu-objcopy" --only-keep-debug --compress-debug-sections "$built" "$into/kasa-care-agent.debug"
    "$gnu-objcopy" --strip-all --remove-section=.comment --add-gnu-debuglink="$into/kasa-care-agent.debug" \
        "$built" "$into/kasa-care-agent"
    scripts/arm/budget.sh "$into/kasa-care-agent" "$budget"
}

targets=("$@")
if [ $# = 0 ]; then
    targets=(armv7-unknown-linux-gnueabihf aarch64-unknown-linux-gnu)
fi
for target in "${targets[@]}"; do
    . scripts/arm/names.sh
    with=$budget_with without=$budget_without
    if [ "$debian" != armhf ]; then
        with=0 without=0
    fi
    build firmware-without-gstreamer "$without" --no-default-features
    build firmware "$with"
done
