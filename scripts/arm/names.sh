# To be sourced with a Rust target in $target: sets the names that Debian, GCC and QEMU use for the same machine.

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
    # amd64 is built the same way, so that its package has the same compiler and libraries.
    debian=amd64
    gnu=x86_64-linux-gnu
    qemu=
    ;;
*)
    echo "$(basename "$0"): '$target' is none of armv7-unknown-linux-gnueabihf, aarch64-unknown-linux-gnu, x86_64-unknown-linux-gnu" >&2
    exit 64
    ;;
esac
