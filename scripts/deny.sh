#!/bin/sh
# cargo-deny over the whole workspace: licences, bans, sources, and advisories from a dated copy of the RustSec
# database.
#
# RUSTSEC_DB names the copy. The default is the newest rustsec-advisory-db-<date>.tar.zst in the cache or in a
# directory beside the work tree. Without one the script skips advisories and says so.
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}

version=0.20.2
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kasa-care-agent
deny=$(command -v cargo-deny || true)
if [ -z "$deny" ] || [ "$("$deny" --version)" != "cargo-deny $version" ]; then
    deny=$cache/cargo-deny-$version/bin/cargo-deny
fi
if [ ! -x "$deny" ]; then
    echo "deny.sh: building cargo-deny $version once, into $cache" >&2
    # The tool runs for a second: build it fast, not for speed.
    CARGO_TARGET_DIR=$cache/cargo-deny-build CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=0 \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        "$cargo" install --quiet --locked --version "$version" --root "$cache/cargo-deny-$version" cargo-deny
    rm -rf "$cache/cargo-deny-build"
fi

mkdir -p target
"$cargo" metadata --locked --format-version 1 --filter-platform x86_64-unknown-linux-gnu \
    --filter-platform armv7-unknown-linux-gnueabihf --filter-platform aarch64-unknown-linux-gnu \
    --filter-platform armv7-unknown-linux-musleabihf --filter-platform armv5te-unknown-linux-musleabi \
    --filter-platform aarch64-unknown-linux-musl --filter-platform mipsel-unknown-linux-musl >target/metadata.json

checks="bans licenses sources"
# By date, wherever it is.
newest() {
    for archive in "$cache"/rustsec-advisory-db-*.tar.zst ../*/rustsec-advisory-db-*.tar.zst; do
        [ ! -e "$archive" ] || echo "$(basename "$archive") $archive"
    done | sort | tail -n 1 | cut -d' ' -f2-
}
archive=${RUSTSEC_DB:-$(newest)}
if [ -n "$archive" ] && [ -r "$archive" ]; then
    checks="advisories $checks"
    date=$(basename "$archive" .tar.zst | sed 's/^rustsec-advisory-db-//')
    age=$((($(date +%s) - $(date -d "$date" +%s)) / 86400))
    echo "deny.sh: advisories of $date, $age days old" >&2
    if [ "$age" -gt 180 ]; then
        echo "deny.sh: #########################################################################" >&2
        echo "deny.sh: # THE ADVISORY DATABASE IS $age DAYS OLD and lacks newer advisories." >&2
        echo "deny.sh: # Put a newer rustsec-advisory-db-<date>.tar.zst in its place." >&2
        echo "deny.sh: #########################################################################" >&2
    fi
    # cargo-deny reads the database as a git clone, in a folder it names after the URL in deny.toml.
    db=target/advisory-db/advisory-db-3157b0e258782691
    if [ "$(cat target/advisory-db/date 2>/dev/null)" != "$date" ]; then
        rm -rf target/advisory-db
        mkdir -p "$db"
        zstd -dcq "$archive" | tar -x -C "$db"
        git -C "$db" -c init.defaultBranch=main init -q
        git -C "$db" add -A
        GIT_AUTHOR_DATE="$date 00:00:00 +0000" GIT_COMMITTER_DATE="$date 00:00:00 +0000" \
            git -C "$db" -c user.name=deny.sh -c user.email=deny.sh@localhost commit -qm "RustSec $date"
        touch "$db/.git/FETCH_HEAD"
        echo "$date" >target/advisory-db/date
    fi
else
    echo "deny.sh: SKIPPED: advisories. RUSTSEC_DB is not set, and there is no rustsec-advisory-db-<date>.tar.zst in $cache or beside the work tree." >&2
fi

# shellcheck disable=SC2086 # one word per check
"$deny" --offline --workspace --metadata-path target/metadata.json --log-level "${DENY_LOG:-warn}" check --hide-inclusion-graph $checks
