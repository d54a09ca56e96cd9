#!/bin/bash
# A Premium camera uploads; you cancel in the browser and see it switch. With ONCE=1 the story plays without a person and
# ends with one JSON line of its figures.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
# make test names what it has built already, so that nothing is compiled twice.
"$cargo" build --locked --workspace "${DEMO_TARGETS:---bins}" --quiet
exec "${CARGO_TARGET_DIR:-target}/debug/care-demo"
