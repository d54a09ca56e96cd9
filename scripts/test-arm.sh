#!/bin/bash
# The firmware's own tests, cross-built and run under qemu-user with the target's libraries and GStreamer elements:
#
#     test-arm.sh [TARGET…]            both by default
#
# qemu-user brings no kernel: what a test sees of sockets and files is this machine's. What it does not bring at all is named
# below, test by test.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/arm/in-step.sh

# Not under qemu-user, and why:
skipped=(
)

targets=("$@")
if [ $# = 0 ]; then
    targets=(armv7-unknown-linux-gnueabihf aarch64-unknown-linux-gnu)
fi
for target in "${targets[@]}"; do
    scripts/arm/cargo.sh "$target" test --locked -p kasa-care-agent -p care-protocol --lib --test '*' --profile arm-test \
        -- "${skipped[@]/#/--skip=}"
done
