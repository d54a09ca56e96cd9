#!/bin/sh
# The benchmark of a fleet: light cameras on care-engine against one care-cloud and one Mosquitto, then three NATS nodes,
# with programs that are built for speed. Writes target/bench/fleet.json, then docs/benchmarks.md and its charts.
# SIZES=100,1000 NATS_SIZES=100 gives a quick look; `bench-fleet.sh mosquitto` and `bench-fleet.sh nats` measure one of the
# two. `bench-fleet writers`, started by hand, measures what a document costs to write. Each camera is a connection of two
# processes: the limit of open files (`ulimit -Hn`) must be above the size.
set -eu
cd "$(dirname "$0")/.."
profile=${PROFILE:-bench-build}
"${CARGO:-cargo}" build --locked --profile "$profile" -p care-cloud --bins
"${CARGO:-cargo}" build --locked --profile "$profile" -p care-tests --bin bench-report
built=target/$profile
if [ "$profile" = dev ]; then
    built=target/debug
fi
# Empty is as good as unset.
[ -n "${SIZES:-}" ] || unset SIZES
[ -n "${NATS_SIZES:-}" ] || unset NATS_SIZES
"$built/bench-fleet" "$@"
"$built/bench-report"
