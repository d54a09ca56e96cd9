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
    # One line for 25 crates, one every ten seconds while nothing is said, and whatever else cargo says.
    crates=$("$cargo" tree --locked --workspace --edges normal,build --prefix none --format '{p}' | sed 's/ (.*//' | sort -u | wc -l)
    compiled=0
    crate=
    CARGO_TERM_COLOR=never "${build[@]}" 2>&1 | while :; do
        line=
        status=0
        IFS= read -r -t 10 line || status=$?
        if [ "$status" -gt 128 ]; then
            echo "demo.sh: still compiling ${crate:-what changed}, crate $compiled of about $crates" >&2
            continue
        elif [ "$status" != 0 ]; then
            break
        fi
        case $line in
        *" Compiling "*)
            compiled=$((compiled + 1))
            crate=${line#*Compiling }
            crate=${crate%% *}
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
