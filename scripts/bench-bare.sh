#!/bin/bash
# The benchmark on a bare camera (target/bench/bare.json): footprint and switch time of the static firmware with 26 MB for
# Linux. FOOTPRINT_SECONDS=10 CANCELS=20 gives a quick look.
set -euo pipefail
cd "$(dirname "$0")/.."
CARE_BARE_CAMERA=$PWD/$(scripts/bare/build.sh)
CARE_FIRMWARE=$(ls "$PWD"/target/firmware/kasa-care-agent-*-armv7-unknown-linux-musleabihf.tar.xz)
export CARE_BARE_CAMERA CARE_FIRMWARE
profile=${PROFILE:-bench-build}
"${CARGO:-cargo}" build --locked --profile "$profile" -p care-tests --bin bench-bare
built=target/$profile
if [ "$profile" = dev ]; then
    built=target/debug
fi
exec "$built/bench-bare"
