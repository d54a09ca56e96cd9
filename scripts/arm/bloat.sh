#!/bin/bash
# Shows what the flash of a program goes to: the fifteen largest crates and functions, in bytes of code, like `cargo
# bloat`, which does not know a standard library of our own making. Writes target/bench/bloat.json.
#
#     bloat.sh [TARGET]        armv7-unknown-linux-musleabihf by default; run arm.sh TARGET first
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${1:-armv7-unknown-linux-musleabihf}
. scripts/arm/names.sh
# With its symbols; arm.sh strips a copy.
program=target/arm/$target/release/kasa-care-agent
if ! "$gnu-nm" "$program" 2>/dev/null | grep -c . >/dev/null; then
    echo "bloat.sh: $program is missing or has no symbols: run scripts/arm.sh $target" >&2
    exit 1
fi

# A line for each function: its bytes, its crate, its name. A method of a trait counts for the crate of its type.
functions() {
    "$gnu-nm" --demangle --print-size "$program" | awk '
        $3 ~ /^[tTwW]$/ && !seen[$1]++ {
            name = $0
            sub(/^[0-9a-f]+ [0-9a-f]+ . /, "", name)
            crate = name
            sub(/^[<&*({\[ ]*(mut |const |dyn )*/, "", crate)
            if (name !~ /::/) crate = "(C and assembly)"
            else sub(/[^a-z0-9A-Z_].*/, "", crate)
            printf "%s\t%s\t%s\n", $2, crate, name
        }' | while IFS=$'\t' read -r size crate name; do printf '%d\t%s\t%s\n' "0x$size" "$crate" "$name"; done
}

mkdir -p target/bench
functions | jq --raw-input --slurp --arg at "$(date -u +%FT%TZ)" --arg target "$target" --arg commit "$(git rev-parse --short=9 HEAD)" \
    --arg machine "$(nproc) $(uname -m) cores" --argjson bytes "$(stat -c %s "target/arm/$target/firmware/kasa-care-agent")" \
    --argjson xz "$(xz -9e -c "target/arm/$target/firmware/kasa-care-agent" | wc -c)" '
    [split("\n")[] | select(. != "") | split("\t") | { bytes: .[0] | tonumber, crate: .[1], name: .[2] }]
    | {
        measured: { at: $at, commit: $commit, machine: $machine, load: null, debug: false, command: "scripts/arm/bloat.sh \($target)" },
        target: $target, bytes: $bytes, xz: $xz, code: map(.bytes) | add,
        crates: group_by(.crate) | map({ name: .[0].crate, bytes: map(.bytes) | add }) | sort_by(-.bytes)[:15],
        functions: map({ name, bytes }) | sort_by(-.bytes)[:15],
    }' >target/bench/bloat.json
jq -r '"\(.target): \(.bytes) bytes, \(.xz) as xz, \(.code) of them code",
    (.crates[], { bytes: "", name: "" }, .functions[] | "\(.bytes)\t\(.name)")' target/bench/bloat.json
