#!/bin/bash
# Packs the static program for a camera's firmware: a tarball with what goes into the root file system in `rootfs`, and
# beside that the licences, the bill of materials and checksums.
#
#     firmware.sh [TARGET…]            armv7-unknown-linux-musleabihf unless given; builds the programs
#     firmware.sh --program FILE TARGET    packs that program and builds nothing
#
# The tarballs are in target/firmware. The same commit and program give the same file. deploy/buildroot and
# deploy/openwrt put their contents into images; deploy/README.md says how.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
# The commit's time; whoever builds without git sets it.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

pack() {
    local target=$1 program=$2
    local name=kasa-care-agent-$version-$target
    local stage=target/firmware/stage/$name
    local root=$stage/rootfs
    rm -rf target/firmware/stage
    install -D -m 755 "$program" "$root/usr/bin/kasa-care-agent"
    install -D -m 755 init.d/S95kasa-care-agent "$root/etc/init.d/S95kasa-care-agent"
    install -D -m 640 systemd/config.toml "$root/etc/kasa-care-agent/config.toml"
    # The profile for 32 MB, to start from there.
    install -D -m 640 deploy/config-32mb.toml "$root/etc/kasa-care-agent/config-32mb.toml"
    install -m 644 -t "$stage" LICENSE-APACHE LICENSE-MIT CHANGELOG.md
    scripts/sbom.sh "$target"
    install -m 644 "target/sbom/kasa-care-agent-$target.cdx.json" "$stage/sbom.cdx.json"
    (cd "$stage" && find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS)
    # Everything that could differ from one machine to the next is fixed: order, owners, times, the compressor's threads.
    tar -C target/firmware/stage --sort=name --format=gnu --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -cf - "$name" |
        xz -9e --threads=1 >"target/firmware/$name.tar.xz"
    rm -rf target/firmware/stage
    # In the form that Buildroot reads.
    (cd target/firmware && sha256sum kasa-care-agent-*.tar.xz | sed 's/^/sha256  /' >kasa-care-agent.hash)
    echo "firmware.sh: target/firmware/$name.tar.xz: $(stat -c %s "target/firmware/$name.tar.xz") bytes, the program $(stat -c %s "$program")"
}

if [ "${1:-}" = --program ]; then
    pack "$3" "$2"
    exit
fi
targets=("$@")
if [ $# = 0 ]; then
    targets=(armv7-unknown-linux-musleabihf)
fi
for target in "${targets[@]}"; do
    scripts/arm.sh "$target"
    pack "$target" "target/arm/$target/firmware/kasa-care-agent"
done
