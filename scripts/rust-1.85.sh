#!/bin/sh
# Prints the path of a Rust 1.85 compiler, fetching it first if it is not in the cache.
#
# This is the newest Rust that Debian 12 has for ARM as well. Its packages are unpacked into a cache folder and not
# installed, because they would conflict with a developer's own. The version is pinned: the security suite has newer
# ones for some architectures only, and a compiler accepts no standard library but its own.
set -eu

version=1.85.0+dfsg3-1~deb12u3
dir=${XDG_CACHE_HOME:-$HOME/.cache}/kasa-care-agent/rust-$version
rustc=$dir/rustc

if [ ! -x "$rustc" ]; then
    new=$dir.new
    rm -rf "$new" "$dir"
    mkdir -p "$new/packages"
    cd "$new/packages"
    # apt's own sandbox user cannot write into a cache folder under a home directory.
    if ! apt-get -o APT::Sandbox::User=root -qq download "rustc-web=$version" "libstd-rust-web-dev=$version" "libstd-rust-web-1.85=$version" libllvm19 >&2; then
        echo "rust-1.85.sh: Debian 12 does not offer rustc-web $version here." >&2
        echo "  Run 'apt-get update'; look with 'apt-cache policy rustc-web', and if Debian has moved on to another" >&2
        echo "  1.85 build, change the version in this script." >&2
        exit 1
    fi
    for package in *.deb; do
        dpkg -x "$package" "$new"
    done
    cd "$new"
    rm -rf packages usr/share
    cat >rustc <<WRAPPER
#!/bin/sh
export LD_LIBRARY_PATH=$dir/usr/lib/x86_64-linux-gnu\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
exec $dir/usr/bin/rustc "\$@"
WRAPPER
    chmod +x rustc
    mv "$new" "$dir"
fi

case $("$rustc" --version) in
"rustc 1.85.0 "*) echo "$rustc" ;;
*)
    echo "rust-1.85.sh: $rustc is not Rust 1.85.0; remove $dir and run again" >&2
    exit 1
    ;;
esac
