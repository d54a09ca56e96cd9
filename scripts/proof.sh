#!/bin/bash
# The long runs, beyond what fits into `make test`: the deep enumerations that are marked `ignore` in the tests, and everything that
# can be run for ARM. Simulation, fuzzing and soak are added here as they are built; nothing is counted that did not run.
set -euo pipefail
cd "$(dirname "$0")/.."
"${CARGO:-cargo}" test --locked --workspace --lib -- --ignored --nocapture
# The unit tests of the agent without GStreamer.
"${CARGO:-cargo}" test --locked --workspace --no-default-features --lib
# The network: every fault in every phase, five brokers, a cluster (docs/assurance-network.md).
scripts/brokers.sh
"${CARGO:-cargo}" build --locked --workspace --bins
"${CARGO:-cargo}" test --locked --workspace --test scenarios -- --ignored --nocapture --test-threads 2

scripts/deb.sh
for target in x86_64-unknown-linux-gnu armv7-unknown-linux-gnueabihf aarch64-unknown-linux-gnu; do
    scripts/test-deb.sh "$target" "target/arm/$target/firmware/kasa-care-agent"
done
scripts/test-arm.sh
scripts/arm/whole-camera.sh armv7-unknown-linux-gnueabihf
scripts/arm/whole-camera.sh aarch64-unknown-linux-gnu
