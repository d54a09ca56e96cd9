#!/bin/sh
# Builds the agent without GStreamer, as kasa-care-agent-no-gstreamer, beside the one with it. PROFILE selects the
# cargo profile.
#
#   scripts/no-gstreamer.sh [CARGO'S SELECTION OF PACKAGES AND TARGETS]
#
# Select the packages that the build with GStreamer selects: then every dependency has the same features and is
# compiled once. Cargo gives both programs the same name, so call this before the build with GStreamer.
#
# Without arguments, as `make test` calls it, it selects all packages and first runs the media tests that need no
# GStreamer.
set -eu
cd "$(dirname "$0")/.."
if [ $# = 0 ]; then
    "${CARGO:-cargo}" test --locked --no-default-features --workspace --lib -- media::
    set -- --workspace --test wire
fi
profile=${PROFILE:-dev}
built=${CARGO_TARGET_DIR:-target}/$profile
if [ "$profile" = dev ]; then
    built=${CARGO_TARGET_DIR:-target}/debug
fi
"${CARGO:-cargo}" build --locked --no-default-features --profile "$profile" --bin kasa-care-agent "$@"
# A new file, because the old program may be running.
cp "$built/kasa-care-agent" "$built/kasa-care-agent-no-gstreamer.new"
mv "$built/kasa-care-agent-no-gstreamer.new" "$built/kasa-care-agent-no-gstreamer"
