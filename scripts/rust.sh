#!/bin/sh
# Prints the path of the Rust compiler that the firmware is built with: the newest that Debian 12 offers. Fetches it
# first if it is not in the cache.
#
# Debian's packages are unpacked into the cache and not installed, because they would conflict with a developer's own
# Rust. Compiler, standard library and the library's source are of one version, since a compiler accepts no library
# but its own. The source is what `-Zbuild-std` in arm/cargo.sh builds for targets that Debian has no library for.
# The security suite keeps only its newest version, so none is pinned: the cache is keyed by the version that apt
# offers, and a newer one is found as soon as apt knows it.
set -eu

oldest=88 # of Rust 1; `rust-version` in Cargo.toml
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kasa-care-agent

offered() {
    apt-cache policy rustc-web 2>/dev/null | sed -n 's/^ *Candidate: //p' | grep -v '(none)' || true
}

# apt's own sandbox user cannot write into a cache folder under a home directory.
download() {
    apt-get -o APT::Sandbox::User=root -qq download "$@" >&2
}

# fetch VERSION: unpacks that version into $dir. Fails if apt does not have it, or has it no longer.
fetch() {
    version=$1
    minor=${version#1.}
    minor=${minor%%.*}
    llvm=$(apt-cache show "libstd-rust-web-1.$minor=$version" | sed -n 's/^Depends:.*\(libllvm[0-9]*\).*/\1/p')
    new=$dir.$$
    rm -rf "$new" "$dir"
    mkdir -p "$new/packages"
    (cd "$new/packages" && download "rustc-web=$version" "libstd-rust-web-dev=$version" "libstd-rust-web-1.$minor=$version" \
        "rust-web-src=$version" "$llvm") || { rm -rf "$new"; return 1; }
    for package in "$new"/packages/*.deb; do
        dpkg -x "$package" "$new"
    done
    rm -rf "$new/packages" "$new/usr/share"
    libraries=$(cd "$new/usr/lib" && echo *-linux-gnu)
    cat >"$new/rustc" <<WRAPPER
#!/bin/sh
export LD_LIBRARY_PATH=$dir/usr/lib/$libraries:$dir/usr/lib/llvm-${llvm#libllvm}/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
exec $dir/usr/bin/rustc "\$@"
WRAPPER
    chmod +x "$new/rustc"
    mv "$new" "$dir"
}

update() {
    echo "rust.sh: apt does not have rustc-web${version:+ $version}; updating its lists" >&2
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get -qq update >&2 || true
    version=$(offered)
}

version=$(offered)
[ -n "$version" ] || update
if [ -z "$version" ]; then
    echo "rust.sh: apt offers no rustc-web. The firmware is built on Debian 12, with its main and security suites in" >&2
    echo "  /etc/apt/sources.list; look with 'apt-cache policy rustc-web'." >&2
    exit 1
fi
dir=$cache/rust-$version
if [ ! -x "$dir/rustc" ] && ! fetch "$version"; then
    # The security suite drops a version when the next arrives.
    update
    dir=$cache/rust-$version
    if [ ! -x "$dir/rustc" ] && ! fetch "$version"; then
        echo "rust.sh: could not download rustc-web $version and what belongs to it; is Debian's mirror reachable?" >&2
        exit 1
    fi
fi
case $version in
1.[0-9]*) minor=${version#1.} minor=${minor%%.*} ;;
*) minor=$oldest ;;
esac
if [ "$minor" -lt "$oldest" ]; then
    echo "rust.sh: apt's newest rustc-web is $version, and the firmware needs Rust 1.$oldest. Debian 12's security suite" >&2
    echo "  has it: add 'deb http://deb.debian.org/debian-security bookworm-security main' to apt's sources." >&2
    exit 1
fi
if ! "$dir/rustc" --version >/dev/null; then
    echo "rust.sh: $dir/rustc does not run. Install the libraries that it names (scripts/deps.sh arm), or remove that" >&2
    echo "  folder and run again." >&2
    exit 1
fi
echo "$dir/rustc"
