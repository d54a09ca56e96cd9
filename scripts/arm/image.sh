#!/bin/bash
# Prints the folder of an emulated camera's image with the agent of this work tree; builds and packs it first if
# needed:
#
#     image.sh TARGET
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$1
. scripts/arm/names.sh
version=0.1.0-1
scripts/arm.sh "$target" >&2
VERSION=$version scripts/deb.sh "$target" "target/arm/$target/firmware/kasa-care-agent" >&2
scripts/arm/camera.sh "$target" "target/deb/kasa-care-agent_${version}_$debian.deb"
