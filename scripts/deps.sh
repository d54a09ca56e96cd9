#!/bin/sh
# Installs what building and testing needs from Debian 12, and the packages named as arguments, as far as it is missing. Quiet
# when nothing is.
#
# Needs root or sudo only when something is missing. Rust itself (with rustfmt and clippy) is yours to install: see README.
set -eu

# To build the agent and care-cloud.
build="gcc libc6-dev make pkg-config git ca-certificates libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev"
# To run them: GStreamer's elements, the broker, the time zones of bills.
run="gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly mosquitto tzdata"
# To test them: cameras and judges nobody here wrote, namespaces and captures, a browser, the rival agents.
test="gstreamer1.0-tools gstreamer1.0-libav gstreamer1.0-rtsp gir1.2-gst-rtsp-server-1.0 python3-gi ffmpeg mosquitto-clients
    iproute2 tcpdump tshark chromium chromium-driver curl jq openssl sqlite3 python3 python3-paho-mqtt strace procps faketime"
# To test against other brokers. Their services are not wanted, here or after the next boot.
brokers="nats-server rabbitmq-server"
# To check with Rust 1.85 and against the advisories: the libraries of Debian's compiler, the archive's format.
check="libedit2 libxml2 libz3-4 zstd"
# To build for ARM, to pack, and to run it all on an emulated camera; systemd for what an image and the unit are checked with.
arm="gcc-arm-linux-gnueabihf gcc-aarch64-linux-gnu libc6-dev-armhf-cross libc6-dev-arm64-cross mmdebstrap qemu-user-static
    qemu-system-arm cpio e2fsprogs systemd"

missing=
for package in $build $run $test $brokers $check $arm "$@"; do
    if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
        missing="$missing $package"
    fi
done

if [ -n "$missing" ]; then
    sudo=
    if [ "$(id -u)" != 0 ]; then
        sudo="sudo"
    fi
    echo "deps.sh: installing$missing" >&2
    log=$(mktemp)
    # Asked before any service is started (see invoke-rc.d). One that is there already has its reasons, and stays.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
        $sudo chmod 755 "$policy"
        trap '$sudo rm -f "$policy"' EXIT
    fi
    # A package's own questions and its service are not wanted here.
    # shellcheck disable=SC2086 # one word per package
    if ! {
        $sudo apt-get -q update &&
            $sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install $missing
    } >"$log" 2>&1; then
        cat "$log" >&2
        echo "deps.sh: could not install$missing; install them by hand and run again" >&2
        exit 1
    fi
    rm -f "$log"
    for package in $missing; do
        case $package in
        nats-server | rabbitmq-server | mosquitto)
            # Without systemd nothing starts it at boot either.
            if command -v systemctl >/dev/null; then
                $sudo systemctl --quiet disable "$package" 2>/dev/null || echo "deps.sh: could not disable the service $package" >&2
            fi
            ;;
        esac
    done
fi

for part in fmt clippy; do
    if ! "${CARGO:-cargo}" "$part" --version >/dev/null 2>&1; then
        echo "deps.sh: 'cargo $part' is missing: rustup component add rustfmt clippy" >&2
        exit 1
    fi
done
