#!/bin/bash
# A whole emulated armv7 camera: what the agent costs it (target/bench/footprint.json), and how long it takes from the publication of a
# cancel to its report (target/bench/camera.json). FOOTPRINT_SECONDS=10 CANCELS=20 for a quick look; with arguments only those parts:
#
#     bench-camera.sh [footprint] [camera]
#
# To be run after bench.sh, which builds what measures.
set -euo pipefail
cd "$(dirname "$0")/.."
target=armv7-unknown-linux-gnueabihf
profile=${PROFILE:-bench-build}
built=target/$profile
if [ "$profile" = dev ]; then
    built=target/debug
fi
CARE_CAMERA=$PWD/$(scripts/arm/image.sh "$target")
export CARE_AGENT=$built/kasa-care-agent CARE_CAMERA CARE_CAMERA_NO_GSTREAMER=$PWD/target/arm/$target/firmware-without-gstreamer/kasa-care-agent
[ $# -gt 0 ] || set -- footprint camera
missed=0
for part in "$@"; do
    # One that misses what is promised does not keep the other from being measured.
    "$built/bench-$part" || missed=1
done
exit "$missed"
