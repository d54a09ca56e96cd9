#!/bin/bash
# Everything that CI checks, part by part. Stops at the first part that fails, and prints its log.
#
# All parts build the same packages with the same features and profile, so that nothing is compiled twice. The logs
# stay in target/test-logs. Fails if it takes longer than 50 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

budget=$((50 * 60))
cargo=${CARGO:-cargo}
logs=target/test-logs
rm -rf "$logs"
mkdir -p "$logs"

export CARGO_TERM_COLOR=never
if [ -n "${CI:-}" ]; then
    # Incremental compilation helps only a second build.
    export CARGO_INCREMENTAL=0
fi

table=
started=$(date +%s)

# Ends with a part that has failed: its name and status. Those of `timeout` mean that the budget is spent.
fail() {
    local log="$logs/$1.log" how=failed
    case $2 in
    124 | 137) how="did not end within the $((budget / 60)) minutes that all parts have" ;;
    esac
    cat "$log"
    echo "make test: $1 $how; its log is $log"
    closing 1
    exit 1
}

# Runs one part: its name, then its command.
part() {
    local name=$1 log="$logs/$1.log" from left seconds status=0
    shift
    printf '%-12s' "$name"
    from=$(date +%s)
    # A part that hangs ends with the budget; one that begins after it still gets a second.
    left=$((started + budget - from))
    timeout --kill-after=10 "$((left > 0 ? left : 1))" "$@" >"$log" 2>&1 </dev/null || status=$?
    seconds=$(($(date +%s) - from))
    if [ "$status" != 0 ]; then
        echo "FAILED, after $seconds s:"
        fail "$name" "$status"
    fi
    printf '%5d s\n' "$seconds"
    table+=$(printf '%-12s %5d s' "$name" "$seconds")$'\n'
    # Notes that a part prints without failing.
    grep -E '^[a-z0-9.-]+\.sh: ' "$log" | sed 's/^/    /' || true
}

# Starts a part in the background, at this niceness, while other parts mostly wait; `finish` waits for it.
begin() {
    local niceness=$1 name=$2
    shift 2
    {
        local from status=0
        from=$(date +%s)
        nice -n "$niceness" timeout --kill-after=10 "$((started + budget - from))" "$@" >"$logs/$name.log" 2>&1 </dev/null || status=$?
        echo "$status $(($(date +%s) - from))" >"$logs/$name.ended"
    } &
    behind[$name]=$!
}

finish() {
    local name=$1 status seconds
    wait "${behind[$name]}"
    unset "behind[$name]"
    read -r status seconds <"$logs/$name.ended"
    printf '%-12s%5d s, behind others\n' "$name" "$seconds"
    if [ "$status" != 0 ]; then
        echo "FAILED:"
        fail "$name" "$status"
    fi
    table+=$(printf '%-12s %5d s, behind others' "$name" "$seconds")$'\n'
    grep -E '^[a-z0-9.-]+\.sh: ' "$logs/$name.log" | sed 's/^/    /' || true
}

declare -A behind=()
trap 'for job in "${behind[@]}"; do pkill -P "$job" 2>/dev/null || true; done' EXIT

# Adds up what the test runners reported. A test that passed when it was repeated has not failed.
closing() {
    cat "$logs"/*.log 2>/dev/null | awk -v at_least="$1" '
        /^repeat-failed.sh: / { failed-- }
        /^test result: / { for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) passed += $(i - 1); if ($i ~ /^failed/) failed += $(i - 1) } }
        END { if (failed < at_least) failed = at_least; printf "%d passed, %d failed\n", passed, failed }'
}

part deps scripts/deps.sh test
part citations sh -c "scripts/citations.py --self-test && scripts/citations.py && scripts/repeat-failed.sh --self-test"
part format "$cargo" fmt --all --check
part clippy "$cargo" clippy --locked --workspace --all-targets -- -D warnings
# The agent without GStreamer, linted and built. Before the build with it, because both write a program of the same
# name. Its unit tests are those of the static program, below.
part no-gst-lint "$cargo" clippy --locked --workspace --no-default-features --lib --bins --test wire -- -D warnings
part no-gst scripts/no-gstreamer.sh
part build "$cargo" build --locked --workspace --all-targets
static=armv7-unknown-linux-musleabihf
# The static program's builds first: others wait for them.
begin 10 arm sh -c "scripts/arm.sh $static && scripts/test-arm.sh --no-run $static && scripts/bare/build.sh"
# All of them are found in `make proof`.
begin 19 planted scripts/planted-bugs.sh acknowledged-before-flash judged-during-cut written-before-cut
# Tests of media and of the black box wait far more than they compute.
part unit env RUST_TEST_THREADS=6 scripts/repeat-failed.sh "$cargo" test --locked --workspace --lib --bins --
part simulation env HISTORIES=1000000 scripts/sim.sh
part examples "$cargo" test --locked --workspace --doc
part black-box env RUST_TEST_THREADS=8 scripts/repeat-failed.sh "$cargo" test --locked --workspace --test '*' --
part demo env ONCE=1 DEMO_TARGETS=--all-targets scripts/demo.sh
# With private items, so that links to them resolve.
part docs env RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" \
    "$cargo" doc --locked --workspace --no-deps --document-private-items
part tree scripts/firmware-tree.sh
part exposure scripts/security.sh
finish arm
# After the static program, whose macros it shares.
part instructions scripts/instructions.sh
# The static program's unit tests. The emulated camera leaves them one of two cores. `make proof` has the other targets,
# the Debian package with its camera, and cargo-deny, which is built from source.
begin 5 arm-tests env RUST_TEST_THREADS=6 scripts/test-arm.sh "$static"
# The static program's tarball on a camera of BusyBox, and the recipes that put it into images.
part bare scripts/bare-camera.sh daily
part recipes scripts/recipes.sh target/firmware/kasa-care-agent-*-"$static".tar.xz
finish arm-tests
finish planted

seconds=$(($(date +%s) - started))
printf '\n%s%-12s %5d s\n' "$table" total "$seconds"
if [ "$seconds" -gt "$budget" ]; then
    echo "make test: took longer than $((budget / 60)) minutes"
    closing 1
    exit 1
fi
closing 0
