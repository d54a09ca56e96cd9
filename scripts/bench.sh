#!/bin/sh
# The benchmarks, on programs built for speed; figures go to target/bench/*.json. CANCELS=20 for a quick look.
set -eu
cd "$(dirname "$0")/.."
profile=${PROFILE:-bench-build}
"${CARGO:-cargo}" build --locked --profile "$profile" -p kasa-care-agent -p care-tests --bins
built=target/$profile
if [ "$profile" = dev ]; then
    built=target/debug
fi
CARE_AGENT=$built/kasa-care-agent exec "$built/bench-cut"
