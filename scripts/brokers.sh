#!/bin/sh
# Builds the two brokers of `make proof` that Debian does not have: aedes from npm and rumqttd from crates.io, each
# from a lockfile of its own in tests/brokers. They are kept in the cache.
set -eu
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kasa-care-agent/brokers

if ! command -v npm >/dev/null; then
    scripts/deps.sh npm
fi

# Whether the cache has the broker of this lockfile.
current() {
    [ "$(cat "$cache/$1/lock" 2>/dev/null)" = "$(sha256sum <"$2")" ]
}

if ! current aedes tests/brokers/aedes/package-lock.json; then
    rm -rf "$cache/aedes"
    mkdir -p "$cache/aedes"
    cp tests/brokers/aedes/package.json tests/brokers/aedes/package-lock.json "$cache/aedes/"
    (cd "$cache/aedes" && npm ci --silent --no-audit --no-fund)
    sha256sum <tests/brokers/aedes/package-lock.json >"$cache/aedes/lock"
fi

if ! current rumqttd tests/brokers/rumqttd/Cargo.lock; then
    mkdir -p "$cache/rumqttd"
    "${CARGO:-cargo}" build --locked --release --manifest-path tests/brokers/rumqttd/Cargo.toml --target-dir "$cache/rumqttd/target"
    cp "$cache/rumqttd/target/release/care-rumqttd" "$cache/rumqttd/"
    sha256sum <tests/brokers/rumqttd/Cargo.lock >"$cache/rumqttd/lock"
    rm -rf "$cache/rumqttd/target"
fi
