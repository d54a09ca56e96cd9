#!/bin/bash
# The demo: a Premium camera uploads clips; you cancel in the browser and watch it switch. ONCE=1 plays the story
# without a person and ends with one JSON line of its figures.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
# `make test` names the targets that it has built already, so that nothing is compiled twice.
build=("$cargo" build --locked --workspace "${DEMO_TARGETS:---bins}")

if [ -t 2 ]; then
    # Cargo draws a progress bar.
    "${build[@]}"
else
    # One line for 25 crates, and whatever else cargo says.
    crates=$("$cargo" tree --locked --workspace --edges normal,build --prefix none --format '{p}' | sed 's/ (.*//' | sort -u | wc -l)
    compiled=0
    CARGO_TERM_COLOR=never "${build[@]}" 2>&1 | while IFS= read -r line; do
        case $line in
        *" Compiling "*)
            compiled=$((compiled + 1))
            if [ $((compiled % 25)) = 1 ]; then
                echo "demo.sh: compiling crate $compiled of about $crates" >&2
            fi
            ;;
        *" Downloaded "* | *" Downloading "*) ;;
        *) echo "$line" >&2 ;;
        esac
    done
fi
exec "${CARGO_TARGET_DIR:-target}/debug/care-demo"
