#!/bin/bash
# From the publication of a cancel to its report on a whole emulated armv7 camera; figures go to target/bench/camera.json.
# CANCELS=20 for a quick look. To be run after bench.sh, which builds what measures.
set -euo pipefail
cd "$(dirname "$0")/.."
target=armv7-unknown-linux-gnueabihf
profile=${PROFILE:-bench-build}
built=target/$profile
if [ "$profile" = dev ]; then
    built=target/debug
fi
CARE_CAMERA=$PWD/$(scripts/arm/image.sh "$target")
export CARE_CAMERA
exec "$built/bench-camera"
