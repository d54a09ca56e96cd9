#!/bin/bash
# The benchmarks on an emulated armv7 camera: footprint and program size (target/bench/footprint.json, size.json), and
# the time from the publication of a cancel to its report (camera.json). FOOTPRINT_SECONDS=10 CANCELS=20 gives a quick
# look. Arguments select parts:
#
#     bench-camera.sh [footprint] [camera]
#
# Run bench.sh first: it builds the programs that measure.
set -euo pipefail
cd "$(dirname "$0")/.."
target=armv7-unknown-linux-gnueabihf
profile=${PROFILE:-bench-build}
built=target/$profile
if [ "$profile" = dev ]; then
    built=target/debug
fi
CARE_CAMERA=$PWD/$(scripts/arm/image.sh "$target")
export CARE_AGENT=$built/kasa-care-agent CARE_CAMERA CARE_CAMERA_NO_GSTREAMER=$PWD/target/arm/armv7-unknown-linux-musleabihf/firmware/kasa-care-agent
[ $# -gt 0 ] || set -- footprint camera
# The static program is measured beside the one with GStreamer.
scripts/arm.sh armv7-unknown-linux-musleabihf
scripts/arm/bloat.sh
missed=0
for part in "$@"; do
    # If one misses its limit, the other is measured all the same.
    "$built/bench-$part" || missed=1
done
exit "$missed"
