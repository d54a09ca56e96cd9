#!/bin/sh
# The benchmarks on this machine, with programs that are built for speed. Writes target/bench/cut.json, footprint.json
# and video.json. CANCELS=20 FOOTPRINT_SECONDS=10 VIDEO_SECONDS=10 gives a quick look. Arguments select benchmarks:
#
#     bench.sh [cut] [footprint] [video]
set -eu
cd "$(dirname "$0")/.."
profile=${PROFILE:-bench-build}
# First the agent without GStreamer: both builds write a program of the same name.
PROFILE=$profile scripts/no-gstreamer.sh -p kasa-care-agent -p care-tests --bins
"${CARGO:-cargo}" build --locked --profile "$profile" -p kasa-care-agent -p care-tests --bins
built=target/$profile
if [ "$profile" = dev ]; then
    built=target/debug
fi
export CARE_AGENT="$built/kasa-care-agent" CARE_AGENT_NO_GSTREAMER="$built/kasa-care-agent-no-gstreamer"
[ $# -gt 0 ] || set -- cut footprint video
missed=0
for benchmark in "$@"; do
    # If one misses its limit, the others are measured all the same.
    "$built/bench-$benchmark" || missed=1
done
exit "$missed"
