#!/bin/sh
# Prints the path of a folder with Debian packages of another architecture, unpacked but not configured; makes it once:
#
#     tree.sh ARCHITECTURE PACKAGE…
#
# dpkg sees them as installed there, so that it accepts a package that depends on them. This system itself gets no
# package and no foreign architecture. The cache key is the list of packages and the Debian release. DEBIAN_MIRROR
# names another mirror.
set -eu
architecture=$1
shift
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
release=12
packages=$(printf '%s\n' "$@" | sort | paste -sd,)
key=$(printf '%s' "$release $packages" | sha256sum | cut -c1-12)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/kasa-care-agent/debian-$release-$architecture-$key

if [ ! -e "$dir/.complete" ]; then
    rm -rf "$dir"
    mkdir -p "$(dirname "$dir")"
    log=$(mktemp)
    # shellcheck disable=SC2016 # for the shell of the hook
    installed='for package in "$1"/var/cache/apt/archives/*.deb; do
        dpkg-deb --field "$package" | sed "/^Package:/a Status: install ok installed"
        echo
    done >"$1/var/lib/dpkg/status"'
    # Only the release itself, without updates: it changes only with a point release, so every machine unpacks the
    # same.
    if ! mmdebstrap --quiet --architectures="$architecture" --variant=extract --include="$packages" \
        --extract-hook="$installed" bookworm "$dir" \
        "deb $mirror bookworm main" >"$log" 2>&1; then
        cat "$log" >&2
        rm -rf "$dir" "$log"
        echo "tree.sh: could not unpack Debian 12's $architecture packages; is $mirror reachable? (DEBIAN_MIRROR names another)" >&2
        exit 1
    fi
    rm -f "$log"
    rm -rf "$dir/var/cache/apt" "$dir/var/lib/apt/lists" "$dir/usr/share/doc" "$dir/usr/share/man" "$dir/usr/share/locale"
    mkdir -p "$dir/var/lib/apt/lists" "$dir/var/cache/apt"
    touch "$dir/.complete"
fi
echo "$dir"
