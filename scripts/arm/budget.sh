#!/bin/sh
# Prints the size of a program, and fails if it exceeds its budget:
#
#     budget.sh PROGRAM BYTES        (0: no budget)
set -eu
size=$(stat -c %s "$1")
if [ "$2" = 0 ]; then
    echo "budget.sh: $1: $size bytes"
elif [ "$size" -gt "$2" ]; then
    echo "budget.sh: $1: $size bytes exceed the budget of $2; 'cargo bloat --release' shows what grew" >&2
    exit 1
else
    echo "budget.sh: $1: $size of $2 bytes"
fi
