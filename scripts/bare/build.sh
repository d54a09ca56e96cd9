#!/bin/bash
# Prints the folder of a bare camera's image with the agent of this work tree; builds and packs it first if needed.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=armv7-unknown-linux-musleabihf
scripts/firmware.sh "$target" >&2
scripts/arm/cargo.sh "$target" build --locked --release -p rtsp-camera --bin rtsp-camera >&2
. scripts/arm/names.sh
streamer=target/arm/$target/release/rtsp-camera
"$gnu-strip" -o "$streamer.stripped" "$streamer"
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
scripts/bare/image.sh "target/firmware/kasa-care-agent-$version-$target.tar.xz" "$streamer.stripped"
