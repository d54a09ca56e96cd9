#!/bin/sh
# The benchmarks on this machine, with programs that are built for speed. Writes target/bench/cut.json and
# footprint.json. CANCELS=20 FOOTPRINT_SECONDS=10 gives a quick look.
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
"$built/bench-cut"
exec "$built/bench-footprint"
