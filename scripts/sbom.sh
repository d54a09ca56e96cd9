#!/bin/sh
# Writes the software bill of materials (CycloneDX, JSON) of the ARM firmware, the agent and every crate that is
# linked into it, to target/sbom/kasa-care-agent.cdx.json. Each release includes it.
#
#     sbom.sh [TARGET]                 of a static program (TARGET has `musl` in it): to kasa-care-agent-TARGET.cdx.json
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}

version=0.5.9
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kasa-care-agent
tool=$cache/cargo-cyclonedx-$version/bin/cargo-cyclonedx
if [ ! -x "$tool" ]; then
    echo "sbom.sh: building cargo-cyclonedx $version once, into $cache" >&2
    # A tool that runs for a second need not be built for speed.
    CARGO_TARGET_DIR=$cache/cargo-cyclonedx-build CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        "$cargo" install --quiet --locked --version "$version" --root "$cache/cargo-cyclonedx-$version" cargo-cyclonedx
    rm -rf "$cache/cargo-cyclonedx-build"
fi

target=${1:-armv7-unknown-linux-gnueabihf}
bill=target/sbom/kasa-care-agent${1:+-$1}.cdx.json
features=
case $target in
*musl*) features=--no-default-features ;;
esac

# It writes beside every manifest of the workspace; only the agent's is kept.
name=sbom-$$
trap 'rm -f "$name.json" engine/"$name.json" protocol/"$name.json" metrics/"$name.json" cloud/"$name.json" tests/"$name.json" tests/rtsp-camera/"$name.json"' EXIT
# The commit's time, so that the same commit gives the same file.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) \
    "$tool" cyclonedx --quiet --format json --spec-version 1.5 --no-build-deps --target "$target" $features --override-filename "$name"
mkdir -p target/sbom
# The crates that the firmware links. The tool unifies the features of the whole workspace and so lists some crates of
# care-cloud and the tests, which are removed below.
"$cargo" tree --locked -p kasa-care-agent --edges normal --target "$target" $features --prefix none --format '{p}' |
    sed 's/ (.*//; s/ v/ /' | grep -v '^kasa-care-agent ' | sort -u >target/sbom/tree
# Remove paths of this machine, which would also make the file differ between machines.
jq --rawfile tree target/sbom/tree --arg here "path+file://$PWD" '
    ($tree | split("\n")) as $linked
    | .components |= map(select("\(.name) \(.version)" | IN($linked[])))
    | [.metadata.component, .components[] | ."bom-ref"] as $refs
    | .dependencies |= map(select(.ref | IN($refs[])) | if .dependsOn then .dependsOn |= map(select(IN($refs[]))) else . end)
    | walk(if type == "string" then split($here) | join("workspace") else . end)' "$name.json" >"$bill"

# Prints the faults of a bill: a crate of the firmware that is missing or has no licence, or a path of this machine.
faults() {
    jq -r '.components[] | "\(.name) \(.version)"' "$1" | sort -u | comm -23 target/sbom/tree - | sed 's/^/not in the bill: /'
    jq -r '.metadata.component, .components[] | select(.licenses | length == 0) | "without a licence: \(.name) \(.version)"' "$1"
    jq -r --arg here "$PWD" --arg home "$HOME" \
        '.. | strings | select(contains($here) or contains($home) or contains("file:///")) | "a path of this machine: " + .' "$1"
}

# Test the check itself on a bill with one of each fault.
jq --arg here "$PWD" '.components |= (.[1:] | .[0].licenses = []) | .metadata.component.description = $here' "$bill" >target/sbom/bad.json
if [ "$(faults target/sbom/bad.json | cut -d: -f1 | sort -u | wc -l)" != 3 ]; then
    echo "sbom.sh: the check misses a planted fault" >&2
    exit 1
fi
rm target/sbom/bad.json
found=$(faults "$bill")
if [ -n "$found" ]; then
    printf 'sbom.sh: %s\n' "$found" >&2
    exit 1
fi
echo "sbom.sh: $bill, $(jq '.components | length' "$bill") components" >&2
