#!/bin/sh
# Counts the instructions of a verification and of a decision, with the firmware's own optimisation; fails if they have risen
# (benches/instructions/main.rs).
set -eu
cd "$(dirname "$0")/.."
"${CARGO:-cargo}" build --locked --release -p care-instructions
"${CARGO_TARGET_DIR:-target}/release/bench-instructions"
