#!/bin/bash
# Tests the agent's package on an emulated camera, with its cloud on this machine.
#
#     whole-camera.sh TARGET [FILTER…] [--skip FILTER…]      only tests whose names contain a FILTER
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$1
shift
CARE_CAMERA=$PWD/$(scripts/arm/image.sh "$target")
export CARE_CAMERA
# Select the targets that `make test` has built: others would compile the dependencies again with other features.
"${CARGO:-cargo}" build --locked --workspace --all-targets
# One at a time: each emulated camera needs the whole machine.
exec "${CARGO:-cargo}" test --locked --workspace --test arm -- --ignored --nocapture --test-threads=1 "$@"
