#!/bin/sh
# Checks the firmware, its tests included, with Rust 1.85.
set -eu
cd "$(dirname "$0")/.."
rustc=$(scripts/rust-1.85.sh)
# Not optimised: nothing that is built here, macros and build scripts, runs for long.
RUSTC=$rustc exec "${CARGO:-cargo}" check --locked -p kasa-care-agent -p care-protocol --all-targets --target-dir target/rust-1.85 \
    --config 'profile.dev.package."*".opt-level=0'
