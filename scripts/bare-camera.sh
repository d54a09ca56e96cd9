#!/bin/bash
# Tests the firmware's tarball on a bare camera in QEMU (BusyBox, squashfs, 26 to 46 MB for Linux), with its cloud on this
# machine.
#
#     bare-camera.sh [FILTER…] [--skip FILTER…]      only tests whose names contain a FILTER: daily, hardship
set -euo pipefail
cd "$(dirname "$0")/.."
CARE_BARE_CAMERA=$PWD/$(scripts/bare/build.sh)
export CARE_BARE_CAMERA
# Select the targets that `make test` has built: others would compile the dependencies again with other features.
"${CARGO:-cargo}" build --locked --workspace --all-targets
# One at a time: each camera needs the whole machine.
exec "${CARGO:-cargo}" test --locked --workspace --test bare -- --ignored --nocapture --test-threads=1 "$@"
