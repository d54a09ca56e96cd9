#!/bin/sh
# Says how large a program is, and fails if it is over its budget:
#
#     budget.sh PROGRAM BYTES        (0: no budget)
set -eu
size=$(stat -c %s "$1")
if [ "$2" = 0 ]; then
    echo "budget.sh: $1: $size bytes"
elif [ "$size" -gt "$2" ]; then
    echo "budget.sh: $1: $size bytes are more than its $2; 'cargo bloat --release' names what grew" >&2
    exit 1
else
    echo "budget.sh: $1: $size of $2 bytes"
fi
