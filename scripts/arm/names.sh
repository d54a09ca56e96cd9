# Sourced, with a Rust target in $target: what Debian, GCC and QEMU call the same machine. Kept in one place, because every
# tool has its own name for it.

case $target in
armv7-unknown-linux-gnueabihf)
    debian=armhf
    gnu=arm-linux-gnueabihf
    qemu=qemu-arm-static
    ;;
aarch64-unknown-linux-gnu)
    debian=arm64
    gnu=aarch64-linux-gnu
    qemu=qemu-aarch64-static
    ;;
x86_64-unknown-linux-gnu)
    # The same way, so that the package for amd64 is built with the same compiler and libraries.
    debian=amd64
    gnu=x86_64-linux-gnu
    qemu=
    ;;
*)
    echo "$(basename "$0"): '$target' is none of armv7-unknown-linux-gnueabihf, aarch64-unknown-linux-gnu, x86_64-unknown-linux-gnu" >&2
    exit 64
    ;;
esac
