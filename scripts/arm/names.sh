# To be sourced with a Rust target in $target: sets the names that Debian, GCC and QEMU use for the same machine, and
# how code for it is made.

# musl: a static program without GStreamer. glibc: with GStreamer, on Debian's libraries.
libc=musl
# C code (ring, libunwind) and Rust code for the same processor.
cflags=
rustflags=
case $target in
armv7-unknown-linux-musleabihf | armv7-unknown-linux-gnueabihf)
    # Hi3518EV300, SSC337: Cortex-A7.
    debian=armhf
    gnu=arm-linux-gnueabihf
    qemu="qemu-arm-static -cpu cortex-a7"
    # Thumb-2 instructions: every ARMv7 has them, and the code is a quarter smaller. Rust calls the flag unstable.
    rustflags=-Ctarget-feature=+thumb-mode
    ;;
armv5te-unknown-linux-musleabi)
    # Hi3518EV200: ARM926, without a floating-point unit.
    debian=armel
    gnu=arm-linux-gnueabi
    qemu="qemu-arm-static -cpu arm926"
    ;;
mipsel-unknown-linux-musl)
    # Ingenic T20, T31. Rust's target computes floats in software, Debian's libraries do not.
    debian=mipsel
    gnu=mipsel-linux-gnu
    qemu=qemu-mipsel-static
    cflags=-msoft-float
    # rustix calls the kernel itself, as it does on ARM. Through the libc crate it would take that crate's 32-bit times
    # for 64-bit ones: clocks would be garbage, and poll would not wait. Rust calls assembly for MIPS experimental.
    rustflags="--cfg=rustix_use_experimental_asm"
    ;;
aarch64-unknown-linux-musl | aarch64-unknown-linux-gnu)
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
    echo "$(basename "$0"): '$target' is none of armv7-unknown-linux-musleabihf, armv5te-unknown-linux-musleabi," >&2
    echo "  aarch64-unknown-linux-musl, mipsel-unknown-linux-musl, armv7-unknown-linux-gnueabihf," >&2
    echo "  aarch64-unknown-linux-gnu, x86_64-unknown-linux-gnu" >&2
    exit 64
    ;;
esac
case $target in
*-gnu*) libc=glibc ;;
esac
