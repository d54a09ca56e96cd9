#!/bin/bash
# Random histories of engine, protocol, store and clock against the oracle: SEED=… plays one aloud, HISTORIES=… so many.
set -euo pipefail
cd "$(dirname "$0")/.."

export SIMULATION_SEED="${SEED:-}" SIMULATION_HISTORIES="${HISTORIES:-}"
"${CARGO:-cargo}" test --locked --workspace --lib "$@" -- --nocapture --exact engine::simulation::no_history_breaks_an_invariant |
    sed -u 's/^\([0-9]* histories,\)/sim.sh: \1/'
