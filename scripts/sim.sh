#!/bin/bash
# Plays random histories of engine, protocol, store and clock against the oracle. SEED=n prints one; HISTORIES=n plays
# n of them, from the seed FROM on. Arguments go to cargo: use `--profile bench-build` for a long run.
set -euo pipefail
cd "$(dirname "$0")/.."

export SIMULATION_SEED="${SEED:-}" SIMULATION_FROM="${FROM:-}" SIMULATION_HISTORIES="${HISTORIES:-}"
"${CARGO:-cargo}" test --locked --workspace --lib "$@" -- --nocapture --exact simulation::no_history_breaks_an_invariant |
    sed -u 's/^\([0-9]* histories,\)/sim.sh: \1/'
