#!/bin/sh
# Builds the agent without GStreamer, as kasa-care-agent-no-gstreamer, beside the one with it. PROFILE selects the
# cargo profile.
#
#   scripts/no-gstreamer.sh [CARGO'S SELECTION OF PACKAGES AND TARGETS]
#
# Select the packages that the build with GStreamer selects: then every dependency has the same features and is
# compiled once. Without arguments they are those of `make test`. Cargo gives both programs the same name, so call this
# before the build with GStreamer.
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- --workspace --test wire
profile=${PROFILE:-dev}
built=${CARGO_TARGET_DIR:-target}/$profile
if [ "$profile" = dev ]; then
    built=${CARGO_TARGET_DIR:-target}/debug
fi
"${CARGO:-cargo}" build --locked --no-default-features --profile "$profile" --bin kasa-care-agent "$@"
# A new file, because the old program may be running.
cp "$built/kasa-care-agent" "$built/kasa-care-agent-no-gstreamer.new"
mv "$built/kasa-care-agent-no-gstreamer.new" "$built/kasa-care-agent-no-gstreamer"
