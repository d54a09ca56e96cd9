#!/bin/sh
# Installs what building and testing needs from Debian 12, as far as it is missing. Quiet when nothing is.
#
# Needs root or sudo only when something is missing. Rust itself (with rustfmt and clippy) is yours to install: see README.
set -eu

# To build the agent and care-cloud.
build="gcc libc6-dev make pkg-config git ca-certificates libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev"
# To run them: GStreamer's elements, the broker, the time zones of bills.
run="gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly mosquitto tzdata"
# To test them: cameras, brokers and judges nobody here wrote, namespaces and captures, a browser, the rival agents.
test="gstreamer1.0-tools gstreamer1.0-libav gstreamer1.0-rtsp gir1.2-gst-rtsp-server-1.0 python3-gi ffmpeg mosquitto-clients
    iproute2 tcpdump tshark chromium chromium-driver curl jq openssl sqlite3 python3 python3-paho-mqtt strace procps nats-server"
# To check with Rust 1.85 and against the advisories: the libraries of Debian's compiler, the archive's format.
check="libedit2 libxml2 libz3-4 zstd"

missing=
for package in $build $run $test $check; do
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
fi

for part in fmt clippy; do
    if ! "${CARGO:-cargo}" "$part" --version >/dev/null 2>&1; then
        echo "deps.sh: 'cargo $part' is missing: rustup component add rustfmt clippy" >&2
        exit 1
    fi
done
