#!/bin/sh
# Prints the path of a folder with musl for a static target; makes it once:
#
#     musl.sh TARGET
#
# It has `lib`, `include` and `gcc.specs`, with which Debian's cross-compiler for glibc links against musl, and two
# libraries named libunwind: in `aborting` a stub, for programs that never unwind, and in `unwinding` GCC's, for
# tests. musl is Debian 12's package for the target's architecture; for MIPS it is built from its source, because the
# package computes floats in hardware and Rust in software. apt gets lists and a status of its own for this, so this
# system's stay as they are. DEBIAN_MIRROR names another mirror.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=$1
. "$here/names.sh"
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kasa-care-agent
dir=$cache/musl-12-$debian-$(cat "$0" "$here"/unwind/* | sha256sum | cut -c1-12)

if [ -e "$dir/gcc.specs" ]; then
    echo "$dir"
    exit
fi
rm -rf "$dir"
mkdir -p "$cache"
new=$(mktemp -d "$cache/musl.XXXXXX")
trap 'rm -rf "$new"' EXIT
mkdir -p "$new/apt/lists/partial" "$new/apt/archives/partial" "$new/unpacked" "$new/lib" "$new/aborting" "$new/unwinding"
: >"$new/apt/status"
cat >"$new/apt/sources" <<SOURCES
deb $mirror bookworm main
deb-src $mirror bookworm main
SOURCES
cat >"$new/apt/conf" <<CONF
APT::Architecture "$debian";
APT::Architectures { "$debian"; };
APT::Sandbox::User "root";
Dir::State "$new/apt";
Dir::State::status "$new/apt/status";
Dir::Cache "$new/apt";
Dir::Etc::SourceList "$new/apt/sources";
Dir::Etc::SourceParts "-";
CONF

fetch() {
    export APT_CONFIG="$new/apt/conf"
    apt-get -qq update
    cd "$new/unpacked"
    case $debian in
    mipsel) apt-get -qq source musl ;;
    *) apt-get -qq download musl-dev ;;
    esac
}
if ! (fetch) >"$new/log" 2>&1; then
    cat "$new/log" >&2
    echo "musl.sh: could not fetch Debian 12's musl for $debian; is $mirror reachable? (DEBIAN_MIRROR names another)" >&2
    exit 1
fi
if [ "$debian" = mipsel ]; then
    # shellcheck disable=SC2086 # one word per flag
    if ! (
        cd "$new"/unpacked/musl-*/
        CC="$gnu-gcc" CROSS_COMPILE="$gnu-" CFLAGS="$cflags -Os" ./configure --target=mipsel --prefix="$new" --disable-shared --disable-wrapper
        make -j"$(nproc)" install
    ) >"$new/log" 2>&1; then
        tail -n 40 "$new/log" >&2
        echo "musl.sh: could not build musl for $debian. Install the compiler and its tools with scripts/deps.sh arm, and run again" >&2
        exit 1
    fi
else
    dpkg -x "$new"/unpacked/*.deb "$new/unpacked"
    mv "$new"/unpacked/usr/include/*-linux-musl* "$new/include"
    cp "$new"/unpacked/usr/lib/*-linux-musl*/*.[ao] "$new/lib/"
fi

# As musl-gcc.specs of the package, with these paths and the start files of a static program.
cat >"$new/gcc.specs" <<SPECS
%rename cpp_options old_cpp_options

*cpp_options:
-nostdinc -isystem $dir/include -isystem include%s %(old_cpp_options)

*cc1:
%(cc1_cpu) -nostdinc -isystem $dir/include -isystem include%s

*link_libgcc:
-L$dir/lib -L .%s

*libgcc:
libgcc.a%s

*startfile:
$dir/lib/crt1.o $dir/lib/crti.o crtbeginT.o%s

*endfile:
crtend.o%s $dir/lib/crtn.o

*link:
-nostdlib -static

*esp_link:


*esp_options:


*esp_cpp_options:


SPECS

# unwind FOLDER SOURCE: compiles a source of unwind/ into FOLDER's libunwind.a.
unwind() {
    # shellcheck disable=SC2086 # one word per flag
    "$gnu-gcc" $cflags -Os -ffreestanding -fno-asynchronous-unwind-tables -fno-unwind-tables -I "$new/include" -c "$here/unwind/$2" -o "$new/unpacked/$2.o"
    "$gnu-ar" r "$new/$1/libunwind.a" "$new/unpacked/$2.o" 2>/dev/null
}
unwind aborting aborting.c
# shellcheck disable=SC2086 # one word per flag
cp "$("$gnu-gcc" $cflags -print-file-name=libgcc_eh.a)" "$new/unwinding/libunwind.a"
unwind unwinding find.c
rm -rf "$new/apt" "$new/unpacked" "$new/log"
chmod 755 "$new"
mv "$new" "$dir"
echo "$dir"
