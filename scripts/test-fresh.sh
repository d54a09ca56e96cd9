#!/bin/bash
# The README's two commands on a Debian 12 that has nothing but make, then once more without a network: proves that
# scripts/deps.sh installs all that they need, and that a second run downloads nothing.
#
#     test-fresh.sh [demo] [test]      both by default
#
# Needs root, mmdebstrap and ip (`scripts/deps.sh proof`). Rust, its downloaded crates and the certificate authorities
# that cargo trusts (SSL_CERT_FILE, where a proxy ends TLS) come from this machine; the source is a clone of the newest
# commit. All that is installed and built stands in a directory that is removed at the end, 20 GB for `test`.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || set -- demo test
for command in "$@"; do
    case $command in
    demo | test) ;;
    *)
        echo "test-fresh.sh: '$command' is not one of demo, test" >&2
        exit 64
        ;;
    esac
done

# The demo's packages are few because these are not among them.
for package in rabbitmq-server qemu-system-arm chromium; do
    if scripts/deps.sh --list demo | grep -qx "$package"; then
        echo "test-fresh.sh: the demo does not need $package; take it out of its group in scripts/deps.sh" >&2
        exit 1
    fi
done

mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
security=${DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
mkdir -p target
scratch=$(mktemp -d "$PWD/target/fresh.XXXXXX")
trap 'rm -rf --one-file-system "$scratch"' EXIT

# A new Debian in $root, with the source in its /source.
install() {
    root=$scratch/$1
    mmdebstrap --quiet --variant=minbase --include=make bookworm "$root" "deb $mirror bookworm main" \
        "deb $mirror bookworm-updates main" "deb $security bookworm-security main" 2>"$scratch/log" || {
        cat "$scratch/log" >&2
        exit 1
    }
    mkdir -p "$root/rust/cargo" "$root/rust/rustup"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    # Debian's installer writes it; chromedriver asks for localhost.
    printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n' >"$root/etc/hosts"
    if [ -n "${CARGO_HTTP_CAINFO:-${SSL_CERT_FILE:-}}" ]; then
        cp "${CARGO_HTTP_CAINFO:-$SSL_CERT_FILE}" "$root/rust/authorities.pem"
        authorities=/rust/authorities.pem
    fi
    git clone --quiet --no-hardlinks . "$root/source"
}

# Types a command there, as root, in namespaces that end with it. Further arguments go to unshare.
type_there() {
    local command=$1
    shift
    # The new root is that of the mount namespace, not a chroot: the tests make namespaces of their own.
    # shellcheck disable=SC2016 # expanded inside
    unshare --mount --pid --fork --kill-child --propagation private "$@" sh -c '
        set -eu
        root=$1
        ip link set lo up
        mount --bind "$root" "$root"
        mount --bind "$2" "$root/rust/cargo"
        mount --bind "$3" "$root/rust/rustup"
        mount --rbind /dev "$root/dev"
        mount --rbind /sys "$root/sys"
        mount -t proc proc "$root/proc"
        mount -t tmpfs tmpfs "$root/run"
        cd "$root"
        pivot_root . .
        umount -l .
        exec env -i HOME=/root LANG=C.UTF-8 PATH=/rust/cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin CARGO_HOME=/rust/cargo \
            RUSTUP_HOME=/rust/rustup RUSTUP_AUTO_INSTALL=0 ${CI:+CI=$CI} \
            ${4:+CARGO_HTTP_CAINFO=$4} ${CARGO_BUILD_JOBS:+CARGO_BUILD_JOBS=$CARGO_BUILD_JOBS} ONCE=1 \
            make -C /source --no-print-directory "$5"
    ' sh "$root" "${CARGO_HOME:-$HOME/.cargo}" "${RUSTUP_HOME:-$HOME/.rustup}" "$authorities" "$command" </dev/null 2>&1
}

# Passes lines on, and tells how long the longest silence between two of them was. A person has to see progress.
listen() {
    local line silence=0 before=$SECONDS
    while IFS= read -r line; do
        if [ $((SECONDS - before)) -gt "$silence" ]; then
            silence=$((SECONDS - before))
        fi
        before=$SECONDS
        printf '%s\n' "$line"
    done
    echo "$silence" >"$scratch/silence"
}

# Runs a command in the new Debian and says what it took.
run() {
    local command=$1 how=$2 from=$SECONDS
    shift 2
    echo "test-fresh.sh: make $command, $how"
    type_there "$command" "$@" | listen | tee "$scratch/said"
    # The demo ends with its figures, and the tests with their count: every step held, or they would have failed.
    case $command in
    demo) tail -n 1 "$scratch/said" | grep -q '"cut_micros":[0-9]' ;;
    test) tail -n 1 "$scratch/said" | grep -q '^[1-9][0-9]* passed, 0 failed$' ;;
    esac || {
        echo "test-fresh.sh: make $command, $how, did not end as it should" >&2
        exit 1
    }
    results+="make $command, $how: $((SECONDS - from)) s, at most $(cat "$scratch/silence") s without a line"$'\n'
}

results= authorities=
for command in "$@"; do
    install "$command"
    run "$command" "on a fresh Debian 12"
    installed=$(chroot "$root" dpkg-query -W -f '${db:Status-Status}\n' | grep -c '^installed$')
    results+="    $(scripts/deps.sh --list "$command" | wc -l) packages of its group, $installed installed with theirs"$'\n'
    run "$command" "again and without a network" --net
    rm -rf --one-file-system "$root"
done
printf '\n%s' "$results"
