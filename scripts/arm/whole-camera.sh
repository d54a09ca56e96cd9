#!/bin/bash
# The whole camera: the agent's package on an emulated camera, with its cloud on this machine.
#
#     whole-camera.sh TARGET [FILTER…]      tests whose names contain FILTER; all by default
#
# Builds the firmware and packs it first.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$1
shift
. scripts/arm/names.sh
version=0.1.0-1
if [ ! -e "target/arm/$target/firmware/kasa-care-agent" ]; then
    scripts/arm.sh "$target"
fi
VERSION=$version scripts/deb.sh "$target" "target/arm/$target/firmware/kasa-care-agent"
CARE_CAMERA=$(scripts/arm/camera.sh "$target" "target/deb/kasa-care-agent_${version}_$debian.deb")
export CARE_CAMERA
# One at a time: each has all of a small machine.
exec "${CARGO:-cargo}" test --locked --workspace --test arm -- --ignored --nocapture --test-threads=1 "$@"
