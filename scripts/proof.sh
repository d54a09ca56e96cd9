#!/bin/sh
# The long runs, beyond what fits into `make test`. So far: the deep enumerations that are marked `ignore` in the tests.
# Simulation, fuzzing, soak and ARM are added here as they are built; nothing is counted that did not run.
set -eu
cd "$(dirname "$0")/.."
"${CARGO:-cargo}" test --locked --workspace --lib -- --ignored --nocapture
# The unit tests of the agent without GStreamer.
"${CARGO:-cargo}" test --locked --workspace --no-default-features --lib
# The network: every fault in every phase, five brokers, a cluster (docs/assurance-network.md).
scripts/brokers.sh
"${CARGO:-cargo}" build --locked --workspace --bins
"${CARGO:-cargo}" test --locked --workspace --test scenarios -- --ignored --nocapture --test-threads 2
