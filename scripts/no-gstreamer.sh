#!/bin/sh
# Builds the agent without GStreamer beside the one with it, as kasa-care-agent-no-gstreamer. PROFILE=bench-build for speed.
#
# The whole workspace is named, and a test of another crate, so that every dependency has the features it has in the other
# builds and is compiled once; only the agent itself is built again. Cargo gives both the same name: call this before the
# build with GStreamer.
set -eu
cd "$(dirname "$0")/.."
profile=${PROFILE:-dev}
built=${CARGO_TARGET_DIR:-target}/$profile
if [ "$profile" = dev ]; then
    built=${CARGO_TARGET_DIR:-target}/debug
fi
"${CARGO:-cargo}" build --locked --workspace --no-default-features --profile "$profile" --bin kasa-care-agent --test wire
# A new file, also where the old one is running.
cp "$built/kasa-care-agent" "$built/kasa-care-agent-no-gstreamer.new"
mv "$built/kasa-care-agent-no-gstreamer.new" "$built/kasa-care-agent-no-gstreamer"
