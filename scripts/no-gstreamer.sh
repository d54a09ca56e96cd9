#!/bin/sh
# Builds the agent without GStreamer beside the one with it, as kasa-care-agent-no-gstreamer. PROFILE=bench-build for speed.
#
#   scripts/no-gstreamer.sh [CARGO'S SELECTION OF PACKAGES AND TARGETS]
#
# Name what the build with GStreamer names, so that every dependency has the same features and is compiled once; only the
# agent itself is built again. Cargo gives both the same name: call this before the build with GStreamer. As `make test`
# calls it, all packages are named, and a test of one that the agent is not part of.
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- --workspace --test wire
profile=${PROFILE:-dev}
built=${CARGO_TARGET_DIR:-target}/$profile
if [ "$profile" = dev ]; then
    built=${CARGO_TARGET_DIR:-target}/debug
fi
"${CARGO:-cargo}" build --locked --no-default-features --profile "$profile" --bin kasa-care-agent "$@"
# A new file, also where the old one is running.
cp "$built/kasa-care-agent" "$built/kasa-care-agent-no-gstreamer.new"
mv "$built/kasa-care-agent-no-gstreamer.new" "$built/kasa-care-agent-no-gstreamer"
