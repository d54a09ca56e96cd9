#!/bin/bash
# Runs tests, and once more, one at a time, those that failed. Tests of media and of networks live in real time: on a
# machine that others use too, one of hundreds may miss its moment. Each is named, with what it said, even if it passes
# alone. More than three failures, a crash and a second failure fail the run.
#
#     repeat-failed.sh CARGO TEST ARGUMENT… -- [ARGUMENT OF THE TESTS…]
#     repeat-failed.sh --self-test
set -euo pipefail

# How many may be repeated: more is no coincidence.
most=3

# The tests that a log of `cargo test --no-fail-fast` names as failed, one per line. Fails if a program ended otherwise
# than by saying how its tests went.
failed_tests() {
    awk '
        /^failures:$/ { names = ""; next }
        /^    [^ ]+$/ { names = names $1 "\n" }
        /^test result: / { if (/^test result: FAILED/) { results++; printf "%s", names }; names = "" }
        /^error: (test|doctest) failed, to rerun pass/ { programs++ }
        END { exit !(results > 0 && results == programs) }' "$1"
}

# What a failed test said first: the line after the one that names its panic.
said() {
    awk -v name="$2" '
        $0 == "---- " name " stdout ----" { inside = 1; next }
        inside && /^---- / { exit }
        inside && told { print substr($0, 1, 300); exit }
        inside && /panicked at/ { told = 1 }' "$1"
}

if [ "${1:-}" = --self-test ]; then
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    result='test result: FAILED. 1 passed; 2 failed; 0 ignored'
    program="error: test failed, to rerun pass \`-p care-tests --test scenarios\`"
    printf '%s\n' failures: '' '---- a::b stdout ----' "thread 'a::b' panicked at x.rs:1:2:" 'late' '' failures: '    a::b' '    c' '' \
        "$result" '' "$program" 'test result: ok. 9 passed; 0 failed' >"$log"
    [ "$(failed_tests "$log")" = $'a::b\nc' ]
    [ "$(said "$log" a::b)" = late ]
    # Another program crashed.
    echo "$program" >>"$log"
    if failed_tests "$log" >/dev/null; then exit 1; fi
    echo "error: could not compile \`care-tests\`" >"$log"
    if failed_tests "$log" >/dev/null; then exit 1; fi
    exit
fi

command=() arguments=()
while [ "$1" != -- ]; do
    command+=("$1")
    shift
done
arguments=("${@:2}")

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
"${command[@]}" --no-fail-fast -- "${arguments[@]}" > >(tee "$log") 2>&1 || status=$?
[ "$status" != 0 ] || exit 0
names=$(failed_tests "$log") || exit "$status"
mapfile -t failed <<<"$names"
[ ${#failed[@]} -le $most ] || exit "$status"

"${command[@]}" --no-fail-fast -- "${arguments[@]}" --test-threads=1 --exact "${failed[@]}"
for name in "${failed[@]}"; do
    echo "repeat-failed.sh: $name passed alone; beside others it failed: $(said "$log" "$name")"
done
