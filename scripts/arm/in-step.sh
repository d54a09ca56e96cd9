#!/bin/sh
# Checks that the ARM build with Docker (cross.toml) and the one without (cargo.sh) use the same libraries and flags.
# CI has no Docker and cannot run the former.
set -eu
cd "$(dirname "$0")/../.."
for flag in -Ctarget-feature=+thumb-mode -Clink-arg=-Wl,--build-id=sha1; do
    for file in scripts/arm/cargo.sh cross.toml; do
        if ! grep -q -e "$flag" "$file"; then
            echo "in-step.sh: $file lacks the flag $flag" >&2
            exit 1
        fi
    done
done
for package in $(grep -oE 'lib[a-z0-9.+-]+-dev' scripts/arm/sysroot.sh | grep -v rust | sort -u); do
    if ! grep -q "$package:\$DEBIAN" scripts/arm/cross.Dockerfile; then
        echo "in-step.sh: scripts/arm/cross.Dockerfile lacks $package, which scripts/arm/sysroot.sh has" >&2
        exit 1
    fi
done
