#!/bin/sh
# Prints the size of a program, as it is and compressed by `xz -9e`, and fails if one of them exceeds its budget:
#
#     budget.sh PROGRAM BYTES [BYTES-AS-XZ]        (0: no budget)
set -eu

# within WHAT SIZE BUDGET
within() {
    if [ "$3" = 0 ]; then
        echo "budget.sh: $1: $2 bytes"
    elif [ "$2" -gt "$3" ]; then
        echo "budget.sh: $1: $2 bytes exceed the budget of $3. 'scripts/arm/bloat.sh TARGET' shows what grew;" >&2
        echo "  if the growth is meant, raise the budget in scripts/arm.sh, and what docs/on-a-camera.md says of it." >&2
        exit 1
    else
        echo "budget.sh: $1: $2 of $3 bytes"
    fi
}

within "$1" "$(stat -c %s "$1")" "$2"
within "$1 as xz" "$(xz -9e -c "$1" | wc -c)" "${3:-0}"
