#!/bin/sh
# Runs cargo-mutants on `protocol` and the engine: tests must kill at least 95 % of the mutants. docs/assurance.md
# lists the survivors and why they are acceptable.
#
#     scripts/mutants.sh [protocol|engine [FILE...]]
#
# Without arguments both, whole; with files only the mutants in these.
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

mkdir -p target

# Nobody reads the backtraces of hundreds of killed mutants, and they take time.
export RUST_BACKTRACE=0

killed=0
survived=0

# run NAME FILES [ARGUMENT…] runs cargo-mutants once and adds up kills and survivors. The tool works in a copy of the
# sources. A hung mutant counts as killed, so tests get far more time than they need, and building has no limit. Exit
# codes: 2, some survived; 3, some hung; anything else is a failed run.
run() {
    name=$1 files=$2
    shift 2
    # shellcheck disable=SC2086 # One word for each file.
    "$mutants" mutants --no-times --no-shuffle --colors never --profile mutants --timeout 100 --output "target/mutants-$name" \
        $(printf -- '--file %s ' $files) "$@" || case $? in 2 | 3) ;; *) exit 1 ;; esac
    counted=target/mutants-$name/mutants.out
    hung=$(wc -l <"$counted/timeout.txt")
    killed=$((killed + $(wc -l <"$counted/caught.txt") + hung))
    survived=$((survived + $(wc -l <"$counted/missed.txt")))
    [ "$hung" = 0 ] || echo "mutants.sh: $name: $hung hung"
    sed 's/^/mutants.sh: survived: /' "$counted/missed.txt"
}

what=${1:-all}
[ $# -eq 0 ] || shift
case $what in
all | protocol)
    run protocol "${*:-protocol/src/*.rs}" --package care-protocol
    ;;
esac
case $what in
all | engine)
    # The slots have tests of their own, which crash at every moment.
    run engine "${*:-engine/src/*.rs}" --package care-engine --cargo-arg=--lib -- \
        -- --skip durable::
    ;;
esac

all=$((killed + survived))
echo "mutants.sh: $killed of $all mutants killed"
[ "$all" -gt 0 ] && [ "$((killed * 100))" -ge "$((all * 95))" ] || {
    echo "mutants.sh: fewer than 95 %" >&2
    exit 1
}
