#!/bin/sh
# Fuzzes every parser of foreign input: scripts/fuzz.sh [SECONDS [TARGET...]]; two minutes and every target by default.
#
# The targets are the functions of src/fuzzing.rs. fuzz/corpus has the inputs worth keeping and is only read here. New
# inputs go to target/fuzz/corpus, and one that fails to target/fuzz/artifacts; the last lines name it.
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}

version=0.13.2
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kasa-care-agent
tool=$cache/cargo-fuzz-$version/bin/cargo-fuzz
if [ ! -x "$tool" ]; then
    echo "fuzz.sh: building cargo-fuzz $version once, into $cache" >&2
    CARGO_TARGET_DIR=$cache/cargo-fuzz-build CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        "$cargo" install --quiet --locked --version "$version" --root "$cache/cargo-fuzz-$version" cargo-fuzz
    rm -rf "$cache/cargo-fuzz-build"
fi

seconds=${1:-120}
[ $# -eq 0 ] || shift
targets=${*:-$(cd fuzz/fuzz_targets && ls | sed 's/\.rs$//')}

# This makes a stable compiler accept the sanitizers. Nothing that is shipped is built with it.
export RUSTC_BOOTSTRAP=1
triple=$(rustc -vV | sed -n 's/^host: //p')
"$tool" build --fuzz-dir fuzz --target "$triple"

for target in $targets; do
    found=target/fuzz/corpus/$target
    mkdir -p "$found" "target/fuzz/artifacts/$target"
    echo "fuzz.sh: $target for $seconds s" >&2
    # The target itself limits an input to a second of processor time; the limit here is for hangs. No allocation
    # above 64 MiB; sanitizer and corpus take the rest of the memory.
    "fuzz/target/$triple/release/$target" -max_total_time="$seconds" -timeout=30 -malloc_limit_mb=64 -rss_limit_mb=2048 \
        -max_len=70000 -print_final_stats=1 -verbosity=0 -artifact_prefix="target/fuzz/artifacts/$target/" "$found" "fuzz/corpus/$target"
done
