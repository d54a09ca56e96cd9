#!/bin/sh
# The firmware's own tree has one TLS stack and needs nothing but a C compiler to build: no aws-lc, OpenSSL, cmake, bindgen.
# It has no crate with an open advisory either: rustls-webpki 0.102 and rustls-pemfile come with rumqttc's TLS feature,
# which only care-cloud and the tests use.
set -eu
cd "$(dirname "$0")/.."

# Reads a list of crates, one a line with its version; names those that must not be in it.
forbidden() {
    grep -E '^(aws-lc-(sys|rs|fips-sys)|openssl(-sys|-src)?|native-tls|cmake|bindgen|boring(-sys)?|mbedtls[a-z-]*|rustls-pemfile) |^rustls-webpki v0\.102\.' || true
}

tree=$("${CARGO:-cargo}" tree --locked -p kasa-care-agent -e normal,build --prefix none --format '{p}' \
    --target x86_64-unknown-linux-gnu --target armv7-unknown-linux-gnueabihf --target aarch64-unknown-linux-gnu \
    --target armv7-unknown-linux-musleabihf --target armv5te-unknown-linux-musleabi --target aarch64-unknown-linux-musl \
    --target mipsel-unknown-linux-musl | sed 's, (.*,,' | sort -u)

# The check of the check: a tree with one of them in it must be noticed.
for bad in 'aws-lc-sys v0.39.0' 'rustls-webpki v0.102.8' 'rustls-pemfile v2.2.0'; do
    if [ -z "$(printf '%s\n' "$bad" | forbidden)" ]; then
        echo "firmware-tree.sh: the check does not notice $bad" >&2
        exit 1
    fi
done

found=$(printf '%s\n' "$tree" | forbidden)
if [ -n "$found" ]; then
    printf 'firmware-tree.sh: these must not be in the firmware (cargo tree -p kasa-care-agent -i NAME says whence):\n%s\n' "$found" >&2
    exit 1
fi
stacks=$(printf '%s\n' "$tree" | grep -cE '^rustls v' || true)
if [ "$stacks" != 1 ]; then
    echo "firmware-tree.sh: the firmware has $stacks versions of rustls; it must have one" >&2
    exit 1
fi
echo "firmware-tree.sh: $(printf '%s\n' "$tree" | wc -l) crates, none forbidden, one TLS stack"
