#!/bin/bash
# Builds packages for Debian 12 and systems derived from it:
#
#     deb.sh                           for amd64, armhf and arm64
#     deb.sh TARGET [PROGRAM]          for one of them; with PROGRAM it packs that program and builds nothing
#
# The packages are in target/deb. VERSION overrides the version, for tests of an upgrade.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}

version=3.8.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kasa-care-agent
deb=$cache/cargo-deb-$version/bin/cargo-deb
if [ ! -x "$deb" ]; then
    echo "deb.sh: building cargo-deb $version once, into $cache" >&2
    # The tool runs for a second: build it fast, not for speed.
    CARGO_TARGET_DIR=$cache/cargo-deb-build CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        "$cargo" install --quiet --locked --version "$version" --root "$cache/cargo-deb-$version" cargo-deb
    rm -rf "$cache/cargo-deb-build"
fi

# The elements of every source, of built-in motion, of snapshots and of sound, and no others. GStreamer scans every element that it
# finds, and on a camera with 64 MB a scan of all of Debian's is killed for lack of memory.
plugins="coreelements app typefindfunctions isomp4 videoparsersbad video4linux2 rtsp rtp rtpmanager tcp udp
    openh264 videoconvertscale videorate videotestsrc jpeg mulaw alaw audioconvert audioresample voaacenc"

pack() {
    local target=$1 program=$2 stage=target/deb/stage plugin
    . scripts/arm/names.sh
    rm -rf "$stage"
    mkdir -p "$stage/gstreamer-1.0"
    cp "$program" "$stage/kasa-care-agent"
    # Links, because Debian's packages own the elements and update them.
    for plugin in $plugins; do
        ln -s "/usr/lib/$gnu/gstreamer-1.0/libgst$plugin.so" "$stage/gstreamer-1.0/libgst$plugin.so"
    done
    "$deb" --quiet --locked --no-build --no-strip --target "$target" ${VERSION:+--deb-version "$VERSION"} --output target/deb
}

if [ $# = 2 ]; then
    pack "$1" "$2"
    exit
fi
targets=("$@")
if [ $# = 0 ]; then
    targets=(x86_64-unknown-linux-gnu armv7-unknown-linux-gnueabihf aarch64-unknown-linux-gnu)
fi
for target in "${targets[@]}"; do
    scripts/arm.sh "$target"
    pack "$target" "target/arm/$target/firmware/kasa-care-agent"
done
ls -l target/deb/*.deb
