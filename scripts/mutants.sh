#!/bin/sh
# cargo-mutants on `protocol` and `src/engine`: at least 95 % of the mutants must be killed. Arguments go to cargo-mutants, such
# as `--file protocol/src/policy.rs` for one file. The survivors and why they may live are in docs/assurance.md.
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}

version=26.0.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kasa-care-agent
mutants=$cache/cargo-mutants-$version/bin/cargo-mutants
if [ ! -x "$mutants" ]; then
    echo "mutants.sh: building cargo-mutants $version once, into $cache" >&2
    CARGO_TARGET_DIR=$cache/cargo-mutants-build CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        "$cargo" install --quiet --locked --version "$version" --root "$cache/cargo-mutants-$version" cargo-mutants
    rm -rf "$cache/cargo-mutants-build"
fi

# Kills and survivors of one run, added up; the tool's own verdict, which wants all of them dead, is not ours.
killed=0
survived=0
run() {
    name=$1
    shift
    # Without GStreamer, which neither of the two knows; in a copy, so that nobody meets a mutant.
    "$mutants" mutants --no-times --no-shuffle --colors never --timeout 120 --output "target/mutants-$name" "$@" || [ $? -le 3 ]
    counted=target/mutants-$name/mutants.out
    killed=$((killed + $(cat "$counted/caught.txt" "$counted/timeout.txt" | wc -l)))
    survived=$((survived + $(wc -l <"$counted/missed.txt")))
    sed 's/^/mutants.sh: survived: /' "$counted/missed.txt"
}

if [ $# -gt 0 ]; then
    run some "$@"
else
    run protocol --package care-protocol
    run engine --package kasa-care-agent --no-default-features --file 'src/engine/*.rs' --exclude 'src/engine/tests.rs' -- --lib engine::
fi

all=$((killed + survived))
echo "mutants.sh: $killed of $all mutants killed"
[ "$((killed * 100))" -ge "$((all * 95))" ] || {
    echo "mutants.sh: fewer than 95 %" >&2
    exit 1
}
