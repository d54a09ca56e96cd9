#!/bin/bash
# The long runs that do not fit into `make test`: the tests marked `ignore` (every sequence of six events, five
# million crash states, every fault at every call on the state, the network), ten million histories, mutants, every
# fuzz target for two minutes, soak tests of ten minutes and an hour, the demo on a fresh Debian, every test for ARM, the
# Debian packages, the emulated cameras, and cargo-deny.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}

scripts/deny.sh
# scripts/planted-bugs.sh runs the test that is skipped.
"$cargo" test --locked --workspace --lib --bins -- --ignored --nocapture --skip the_planted_bug
scripts/planted-bugs.sh
HISTORIES=${PROOF_HISTORIES:-10000000} scripts/sim.sh
scripts/mutants.sh
# The unit tests of the agent without GStreamer.
"$cargo" test --locked --workspace --no-default-features --lib

# Flash and power; the network with every fault in every phase, five brokers, a cluster.
scripts/brokers.sh
"$cargo" build --locked --workspace --all-targets
"$cargo" test --locked --workspace --test scenarios -- --ignored --nocapture --test-threads 2 --skip on_duty
# The pace on an uplink that changes.
"$cargo" test --locked --workspace --test wire -- --ignored --nocapture
# Foreign input, and soak tests.
scripts/fuzz.sh 120
"$cargo" test --locked --workspace --test scenarios -- --ignored --nocapture ten_minutes_on_duty
"$cargo" test --locked --workspace --test scenarios -- --ignored --nocapture an_hour_on_duty

# The demo on a fresh Debian 12.
scripts/test-fresh.sh demo

# ARM and MIPS: every program within its budget, packages, tests.
scripts/arm.sh
scripts/deb.sh
for target in x86_64-unknown-linux-gnu armv7-unknown-linux-gnueabihf aarch64-unknown-linux-gnu; do
    scripts/test-deb.sh "$target" "target/arm/$target/firmware/kasa-care-agent"
done
scripts/test-arm.sh
scripts/arm/whole-camera.sh armv7-unknown-linux-gnueabihf
# Debian's kernel for arm64 leaves too little of 64 MB for systemd to come up, before there is an agent.
scripts/arm/whole-camera.sh aarch64-unknown-linux-gnu --skip memory_of_64_mb_is_enough
# The bare camera: 26 MB for Linux, JFFS2, power cuts, a full flash.
scripts/bare-camera.sh
