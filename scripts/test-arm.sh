#!/bin/bash
# The firmware's own tests, cross-built and run under qemu-user: as static programs without GStreamer for the targets
# with `musl` in their names, with Debian's libraries and GStreamer elements for the others.
#
#     test-arm.sh [--no-run] [TARGET…]    every target of arm.sh by default; --no-run only builds them
#
# qemu-user has no kernel of its own: sockets and files are this machine's. Like an old kernel, it passes on neither a
# pace (SO_MAX_PACING_RATE) nor TCP_INFO, so the agent's own timer spaces uploads and a cut's report says that its bytes
# were not counted; the store still sees that it cuts. The list below names the tests that qemu-user cannot run, and why.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/arm/in-step.sh

# Not under qemu-user, and why:
skipped=(
    # They film live: videotestsrc and a software encoder, both emulated, do not keep up with the clock that the clips
    # are measured by. Clips from a recorded H.264 stream are tested.
    a_clip_of_the_test_source_has_its_pre_roll_and_ends_5_s_after_the_event
    # Players of this machine judge these files, which are the same on every processor.
    files_of_every_kind_of_stream_play_with_every_player
    # Minutes of arithmetic, which is the same on every processor.
    every_scene_stays_within_its_bounds
    after_three_crashes_too
    # They need TCP_INFO, and a pace.
    a_fast_link_is_felt_for_within_one_clip
    what_is_under_way_is_counted_in_bytes
    this_kernel_paces_and_counts
    # Their RTSP server is a program of this machine and needs this machine's GStreamer elements; the environment
    # names the target's.
    s73_a_silent_source_is_found_and_resumes
    s73_a_stream_resumes_when_its_rtsp_server_is_back
)

# Of MIPS alone: qemu-user 7.2 passes SO_ERROR on as a number of this machine, so a refused connection has no name.
skipped_on_mips=(
    when_all_fail_each_is_named_with_its_reason
    tcp_refused
    each_answer_that_refuses_is_told_in_words
)

# As many as show that the histories run on this processor; where they must be many is here: scripts/sim.sh.
export SIMULATION_HISTORIES=200

no_run=()
if [ "${1:-}" = --no-run ]; then
    no_run=(--no-run)
    shift
fi
targets=("$@")
if [ $# = 0 ]; then
    targets=(armv7-unknown-linux-musleabihf armv5te-unknown-linux-musleabi aarch64-unknown-linux-musl mipsel-unknown-linux-musl
        armv7-unknown-linux-gnueabihf aarch64-unknown-linux-gnu)
fi
for target in "${targets[@]}"; do
    . scripts/arm/names.sh
    if [ ${#no_run[@]} = 0 ] && [ -n "$qemu" ] && ! command -v ${qemu%% *} >/dev/null; then
        echo "test-arm.sh: ${qemu%% *} is missing: install it with scripts/deps.sh test-arm, or only build with --no-run" >&2
        exit 1
    fi
    features=()
    if [ "$libc" = musl ]; then
        features=(--no-default-features)
    fi
    skip=("${skipped[@]/#/--skip=}")
    case $target in
    mips*) skip+=("${skipped_on_mips[@]/#/--skip=}") ;;
    esac
    echo "test-arm.sh: $target"
    tests=(scripts/arm/cargo.sh "$target" test --locked -p kasa-care-agent -p care-engine -p care-protocol --lib --test '*'
        --profile arm-test "${features[@]}")
    if [ ${#no_run[@]} -gt 0 ]; then
        "${tests[@]}" "${no_run[@]}"
    else
        scripts/repeat-failed.sh "${tests[@]}" -- "${skip[@]}"
    fi
done
