#!/bin/sh
# Writes the software bill of materials (CycloneDX, JSON) of the firmware: the agent and everything that is linked into it,
# for ARM. `make sbom` writes target/sbom/kasa-care-agent.cdx.json; a release carries it.
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

# It writes beside every manifest of the workspace; only the agent's is kept.
name=sbom-$$
trap 'rm -f "$name.json" protocol/"$name.json" cloud/"$name.json" tests/"$name.json"' EXIT
# The time of the commit, so that the same commit gives the same file.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) \
    "$tool" cyclonedx --quiet --format json --spec-version 1.5 --no-build-deps --target armv7-unknown-linux-gnueabihf --override-filename "$name"
mkdir -p target/sbom
mv "$name.json" target/sbom/kasa-care-agent.cdx.json

# What the firmware's tree has, the bill must have.
"$cargo" tree --locked -p kasa-care-agent --edges normal --target armv7-unknown-linux-gnueabihf --prefix none --format '{p}' |
    sed 's/ (.*//; s/ v/ /' | grep -v '^kasa-care-agent ' | sort -u >target/sbom/tree
jq -r '.components[] | "\(.name) \(.version)"' target/sbom/kasa-care-agent.cdx.json | sort -u >target/sbom/components
missing=$(comm -23 target/sbom/tree target/sbom/components)
if [ -n "$missing" ]; then
    echo "sbom.sh: not in the bill: $missing" >&2
    exit 1
fi
echo "sbom.sh: target/sbom/kasa-care-agent.cdx.json, $(wc -l <target/sbom/components) components" >&2
