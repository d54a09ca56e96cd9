#!/bin/sh
# Checks that the ARM build with Docker (cross.toml) and the one without (cargo.sh) use the same libraries and flags.
# CI has no Docker and cannot run the former.
set -eu
cd "$(dirname "$0")/../.."
for flag in -Ctarget-feature=+thumb-mode -Clink-arg=-Wl,--build-id=sha1 -Crelocation-model=static; do
    for files in "scripts/arm/cargo.sh scripts/arm/names.sh" cross.toml; do
        # shellcheck disable=SC2086 # one word per file
        if ! cat $files | grep -q -e "$flag"; then
            echo "in-step.sh: $files lacks the flag $flag; add it there" >&2
            exit 1
        fi
    done
done
# rustup has no standard library for mipsel.
for target in $(grep -oE '[a-z0-9_]+-unknown-linux-[a-z]+' scripts/arm.sh | grep -vE '^(mipsel|x86_64)' | sort -u); do
    if ! grep -q "^\[target.$target.env\]" cross.toml; then
        echo "in-step.sh: cross.toml lacks the target $target, which scripts/arm.sh builds; add its tables" >&2
        exit 1
    fi
done
for package in $(grep -oE 'lib[a-z0-9.+-]+-dev' scripts/arm/sysroot.sh | sort -u); do
    if ! grep -q "$package:\$DEBIAN" scripts/arm/cross.Dockerfile; then
        echo "in-step.sh: scripts/arm/cross.Dockerfile lacks $package, which scripts/arm/sysroot.sh has; add it" >&2
        exit 1
    fi
done
