#!/bin/sh
# Builds a rival for the benchmark of cancels, as kasa-care-agent-drops-request: our agent, but a cut only drops the request. The
# firmware has no switch for that, so benches/rivals/drops_request.patch is applied to a scratch copy of the sources. PROFILE
# selects the cargo profile.
#
#   scripts/drops-request.sh [CARGO'S SELECTION OF PACKAGES]
#
# Select the packages that the build of the agent selects: then every dependency is compiled once. Cargo gives both programs the
# same name, so call this before that build.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
patch=$root/benches/rivals/drops_request.patch
patched=src/upload/socket.rs
tree=$root/target/drops-request
profile=${PROFILE:-dev}
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}"
built=$CARGO_TARGET_DIR/$profile
if [ "$profile" = dev ]; then
    built=$CARGO_TARGET_DIR/debug
fi
[ $# -gt 0 ] || set -- -p kasa-care-agent -p care-tests

rm -rf "$tree"
mkdir -p "$tree"
tar -c --exclude=./target --exclude=./fuzz/target --exclude=./.git . | tar -x -C "$tree"
cd "$tree"
newest=$(ls -t "$patch" "$root/$patched" | head -n 1)
patch --batch --silent -p1 <"$patch"
# Built again only if one of the two has changed.
touch -r "$newest" "$patched"
# A version of its own: cargo takes packages of the same name and version for the same. Its lock file changes with it.
sed -i 's/^version = "\(.*\)"$/version = "\1+drops-request"/' Cargo.toml
"${CARGO:-cargo}" build --profile "$profile" --bin kasa-care-agent "$@"
# A new file, because the old program may be running.
cp "$built/kasa-care-agent" "$built/kasa-care-agent-drops-request.new"
mv "$built/kasa-care-agent-drops-request.new" "$built/kasa-care-agent-drops-request"
