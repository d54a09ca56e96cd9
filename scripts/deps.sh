#!/bin/sh
# Installs the Debian 12 packages that a command needs and this machine lacks. Prints nothing when none is missing.
#
#     deps.sh [--list] [GROUP…]        what `make test` needs by default; --list prints the packages and installs nothing
#
# A GROUP is the name of a `make` target, or npm. Root or sudo is needed only when something is missing. Install Rust
# yourself (https://rustup.rs), with rustfmt and clippy for `make check` and `make test`.
set -eu

# Building anything: rustc links with gcc; ring and SQLite contain C.
tools="gcc libc6-dev make pkg-config ca-certificates"
# Building the agent and care-cloud for this machine.
build="$tools libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev"
# Running them: GStreamer's elements, the embedded broker, the time zones of bills.
run="gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad mosquitto tzdata"
# Testing them: cameras, decoders and browsers written by others, shells, namespaces, captures, other
# brokers. Their services are not wanted, now or after the next boot.
judges="git patch busybox-static gstreamer1.0-tools gstreamer1.0-libav gstreamer1.0-plugins-ugly gstreamer1.0-rtsp gir1.2-gst-rtsp-server-1.0
    python3-gi ffmpeg mosquitto-clients iproute2 tcpdump tshark chromium chromium-driver curl jq openssl sqlite3 python3
    python3-cryptography python3-jsonschema python3-paho-mqtt python3-yaml strace procps groff-base faketime nats-server
    rabbitmq-server prometheus postgresql zstd zsh fish valgrind"
# Measuring: the other agents of the benchmark, and the recordings that the camera films.
rivals="patch ffmpeg mosquitto-clients curl jq python3 python3-paho-mqtt python3-cryptography git gstreamer1.0-tools iproute2 valgrind"
# Cross-building: compilers, glibc, what unpacks and builds musl, the libraries of Debian's own Rust, a way to unpack
# foreign packages, and the compressor that the budget is in.
cross="$tools git gcc-arm-linux-gnueabihf gcc-aarch64-linux-gnu gcc-arm-linux-gnueabi gcc-mipsel-linux-gnu
    libc6-dev-armhf-cross libc6-dev-arm64-cross dpkg-dev mmdebstrap qemu-user-static libedit2 libffi8 libxml2 libz3-4 xz-utils"
# Booting an emulated camera; systemd also checks the unit file.
camera="qemu-system-arm cpio e2fsprogs systemd"
# Packing the firmware's tarball, with its bill of materials.
firmware="git jq xz-utils"
# Booting a bare one: its file systems. kconfig reads Buildroot's recipe.
bare="squashfs-tools dosfstools exfatprogs mtools mtd-utils xz-utils ffmpeg kconfig-frontends-nox"

list=
if [ "${1:-}" = --list ]; then
    list=yes
    shift
fi
[ $# -gt 0 ] || set -- test

wanted=
lints=
for group in "$@"; do
    case $group in
    demo) wanted="$wanted $build $run" ;;
    bench-fleet) wanted="$wanted $build $run nats-server" ;;
    check) wanted="$wanted $build python3" lints=yes ;;
    sim) wanted="$wanted $build" ;;
    fuzz) wanted="$wanted $build g++" ;;
    bench) wanted="$wanted $build $run $rivals $cross $camera $firmware $bare" ;;
    arm | test-arm) wanted="$wanted $cross" ;;
    deb) wanted="$wanted $build $cross" ;;
    firmware) wanted="$wanted $cross $firmware" ;;
    sbom) wanted="$wanted git jq" ;;
    test) wanted="$wanted $build $run $judges $cross $camera $firmware $bare" lints=yes ;;
    proof) wanted="$wanted $build $run $judges $cross $camera $firmware $bare g++" lints=yes ;;
    npm) wanted="$wanted nodejs npm" ;;
    *)
        echo "deps.sh: '$group' is no group; the groups are demo, check, sim, fuzz, bench, bench-fleet, arm, test-arm, firmware, deb, sbom, test, proof, npm" >&2
        exit 64
        ;;
    esac
done
# shellcheck disable=SC2086 # one word per package
wanted=$(printf '%s\n' $wanted | sort -u)

if [ -n "$list" ]; then
    echo "$wanted"
    exit
fi

missing=
for package in $wanted; do
    if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
        missing="$missing $package"
    fi
done

if [ -n "$missing" ]; then
    sudo=
    if [ "$(id -u)" != 0 ]; then
        sudo="sudo"
    fi
    # shellcheck disable=SC2086 # one word per package
    set -- $missing
    echo "deps.sh: installing $# Debian packages:$missing" >&2
    log=$(mktemp)
    # Debian asks this program before it starts a service (invoke-rc.d(8)). One that exists already stays.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
        $sudo chmod 755 "$policy"
        trap '$sudo rm -f "$policy"' EXIT
    fi
    # One line for fifty steps.
    {
        $sudo apt-get -q update &&
            $sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "$@" || echo "deps.sh: failed"
    } 2>&1 </dev/null | tee "$log" |
        awk '/^(Get:|Unpacking|Setting up)/ && ++steps % 50 == 0 { print "deps.sh: " $1 " " $2 " " $3; fflush() }' >&2
    if grep -qx "deps.sh: failed" "$log"; then
        cat "$log" >&2
        echo "deps.sh: could not install$missing; install them by hand and run again" >&2
        exit 1
    fi
    rm -f "$log"
    for package in "$@"; do
        case $package in
        nats-server | rabbitmq-server | mosquitto | prometheus | postgresql)
            # Without systemd nothing starts them at boot either.
            if command -v systemctl >/dev/null; then
                $sudo systemctl --quiet disable "$package" 2>/dev/null || echo "deps.sh: could not disable the service $package" >&2
            fi
            ;;
        esac
    done
fi

if ! "${CARGO:-cargo}" --version >/dev/null 2>&1; then
    echo "deps.sh: there is no cargo: install Rust from https://rustup.rs and run again" >&2
    exit 1
fi
if [ -n "$lints" ]; then
    for part in fmt clippy; do
        if ! "${CARGO:-cargo}" "$part" --version >/dev/null 2>&1; then
            echo "deps.sh: 'cargo $part' is missing: rustup component add rustfmt clippy" >&2
            exit 1
        fi
    done
fi
