#!/bin/sh
# Docker's way to an ARM build (cross.toml) and ours (cargo.sh) use the same libraries and the same flags. What needs Docker cannot
# be run here; that it says the same can be checked.
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
