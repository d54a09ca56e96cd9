#!/bin/bash
# Plants known bugs and asks the simulation to find each: a check that cannot fail proves nothing. Every patch in engine/planted/ is
# one bug. The script applies it to a scratch copy of the sources, builds that, and runs the simulation there.
#
# usage: scripts/planted-bugs.sh [NAME…]      without a name: all of them
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
root=$PWD
scratch=$root/target/planted
test=simulation::the_planted_bug_is_found_and_its_history_is_short

# A build directory of its own: cargo would take a patched build for the product's.
export CARGO_TARGET_DIR=$scratch/target
rm -rf "$scratch/tree"
mkdir -p "$scratch/tree"
# As new files: cargo goes by their times, and would take the last run's build, with its bug, for that of older sources.
tar -c --exclude=./target --exclude=./fuzz/target --exclude=./.git . | tar -x -m -C "$scratch/tree"
cd "$scratch/tree"

names=("$@")
if [ $# = 0 ]; then
    for file in engine/planted/*.patch; do
        names+=("$(basename "$file" .patch)")
    done
fi

# Whether or not it is tried now, every patch must still apply.
for file in engine/planted/*.patch; do
    patch --batch --silent --dry-run -p1 <"$file" >/dev/null || {
        echo "planted-bugs.sh: $file does not apply; write it anew" >&2
        exit 1
    }
done

# Plays the histories that find the bug; fails with what the build or the test says.
hunt() {
    local log=$scratch/$1.log
    if ! "$cargo" test --locked --quiet -p care-engine --lib --no-run >"$log" 2>&1; then
        echo "planted-bugs.sh: $1 does not build:" >&2
    elif "$cargo" test --locked --quiet -p care-engine --lib -- --exact --ignored --nocapture "$test" >"$log" 2>&1; then
        grep '^found: ' "$log"
        return
    fi
    cat "$log" >&2
    return 1
}

if hunt nothing >/dev/null 2>&1; then
    echo "planted-bugs.sh: the simulation finds a bug where none is planted" >&2
    exit 1
fi
# It may have failed for another reason than that it found nothing.
grep -q 'not found in ' "$scratch/nothing.log" || {
    cat "$scratch/nothing.log" >&2
    exit 1
}

missed=()
for name in "${names[@]}"; do
    patch --batch --silent -p1 <"engine/planted/$name.patch"
    started=$(date +%s)
    found=$(hunt "$name") || missed+=("$name")
    echo "$name | $(head -n 1 "engine/planted/$name.patch") | ${found:-NOT FOUND} | $(($(date +%s) - started)) s"
    patch --batch --silent --reverse -p1 <"engine/planted/$name.patch"
done

if [ "${#missed[@]}" != 0 ]; then
    echo "planted-bugs.sh: not found: ${missed[*]}" >&2
    exit 1
fi
echo "planted-bugs.sh: ${#names[@]} planted bugs found"
