#!/bin/sh
# The benchmarks on this machine, with programs that are built for speed. Writes target/bench/cut.json, footprint.json
# and video.json. CANCELS=20 FOOTPRINT_SECONDS=10 VIDEO_SECONDS=10 gives a quick look. Arguments select benchmarks:
#
#     bench.sh [cut] [footprint] [video]
set -eu
cd "$(dirname "$0")/.."
profile=${PROFILE:-bench-build}
[ $# -gt 0 ] || set -- cut footprint video
# First the other agents: every build writes a program of the same name.
case " $* " in
*" cut "*) PROFILE=$profile scripts/drops-request.sh -p kasa-care-agent -p care-tests ;;
esac
PROFILE=$profile scripts/no-gstreamer.sh -p kasa-care-agent -p care-tests --bins
"${CARGO:-cargo}" build --locked --profile "$profile" -p kasa-care-agent -p care-tests --bins
built=target/$profile
if [ "$profile" = dev ]; then
    built=target/debug
fi
export CARE_AGENT="$built/kasa-care-agent" CARE_AGENT_NO_GSTREAMER="$built/kasa-care-agent-no-gstreamer"
export CARE_AGENT_DROPS_REQUEST="$built/kasa-care-agent-drops-request"
missed=0
for benchmark in "$@"; do
    begun=$(date +%s)
    # If one misses its limit, the others are measured all the same.
    "$built/bench-$benchmark" || missed=1
    echo "bench-$benchmark took $(($(date +%s) - begun)) s"
done
exit "$missed"
