#!/bin/bash
# The whole camera: the agent's package on an emulated camera, with its cloud on this machine.
#
#     whole-camera.sh TARGET [FILTER…] [--skip FILTER…]      tests whose names contain a FILTER; all by default
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$1
shift
CARE_CAMERA=$PWD/$(scripts/arm/image.sh "$target")
export CARE_CAMERA
# As `make test` has built it: another choice of targets would compile the dependencies with other features again.
"${CARGO:-cargo}" build --locked --workspace --all-targets
# One at a time: each has all of a small machine.
exec "${CARGO:-cargo}" test --locked --workspace --test arm -- --ignored --nocapture --test-threads=1 "$@"
