#!/bin/sh
# The long runs, beyond what fits into `make test`. So far: the deep enumerations that are marked `ignore` in the tests.
# Simulation, fuzzing, soak and ARM are added here as they are built; nothing is counted that did not run.
set -eu
cd "$(dirname "$0")/.."
"${CARGO:-cargo}" test --locked --workspace --lib -- --ignored --nocapture
# The unit tests of the agent without GStreamer.
exec "${CARGO:-cargo}" test --locked --workspace --no-default-features --lib
