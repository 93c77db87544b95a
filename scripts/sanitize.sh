#!/usr/bin/env bash
# Looks for undefined behaviour, data races and orders of events that break a promise.
#
#     scripts/sanitize.sh [miri|loom|tsan|all]     all, one after the other
#
#   miri  unit tests of the ring walk, the ring's hand-over (a thread stands in for the kernel), received
#         messages and their control messages, and the programs for the kernel, in an interpreter
#   loom  models of our own atomics in every order of events within bounds: shares of --count, and the
#         word that says whose a ring block is
#   tsan  all unit tests, tests/handoff.rs, and whole runs of the program: several workers
#         in replay, the listener on loopback, a look at a run that goes on
#
# Exits with 1 when one of them found something, after the others have run, and with 2 when one could
# not run. Covers and limits: docs/TESTING.md.
#
# Miri needs a nightly toolchain with the components miri and rust-src ($MIRI_TOOLCHAIN, default nightly);
# tsan needs rust-src, and a stable toolchain does: RUSTC_BOOTSTRAP lets it build std with the sanitizer,
# without which waiting and waking inside std would look like races. Each keeps its own folder in target/ or $CARGO_TARGET_DIR.
set -euo pipefail
cd "$(dirname "$0")/.."

targets=${CARGO_TARGET_DIR:-target}

fail() {
    echo "sanitize.sh: $1" >&2
    exit 2
}

miri() {
    local toolchain=${MIRI_TOOLCHAIN:-nightly}
    cargo "+$toolchain" miri --version >/dev/null 2>&1 ||
        fail "no Miri; install it with: rustup +$toolchain component add miri rust-src"
    # proptest looks for its file of regressions, which isolation would forbid. The steering tests left out
    # read some 10,000 packets each without any unsafe code.
    PROPTEST_CASES=${PROPTEST_CASES:-8} MIRIFLAGS="-Zmiri-disable-isolation ${MIRIFLAGS-}" \
        cargo "+$toolchain" miri test --locked --target-dir "$targets/miri" --lib -- \
        sys::message_batch sys::blocks sys::ring bpf::assembler bpf::filter bpf::steer \
        source::live::targets pipeline::shares pipeline::outlet pipeline::doorbell source::live::ingress_drop \
        --skip both_directions_meet_and_load_is_spread --skip packets_without_a_frame_meet \
        --skip frames_of_any_hardware_address_are_frames --skip many_ports_are_left_to_one_worker
}

loom() {
    # Without optimisation the models take several times as long.
    RUSTFLAGS="--cfg vxtap_loom ${RUSTFLAGS-}" CARGO_PROFILE_DEV_OPT_LEVEL=1 \
        cargo test --locked --target-dir "$targets/loom" --lib loom_
}

tsan() {
    local sources host logs outcome=0
    sources=$(rustc --print sysroot)/lib/rustlib/src/rust/library/std
    [[ -d $sources ]] || fail "no sources of std; install them with: rustup component add rust-src"
    host=$(rustc -vV | sed -n 's/^host: //p')
    logs=$(mktemp -d)
    # Reports go to files: a test may start the program and not look at what it says.
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=thread ${RUSTFLAGS-}" \
        CARGO_PROFILE_DEV_DEBUG=line-tables-only TSAN_OPTIONS="log_path=$logs/report ${TSAN_OPTIONS-}" \
        cargo test --locked -Zbuild-std --target "$host" --target-dir "$targets/tsan" --no-fail-fast \
        --lib --test handoff --test workers --test listen --test observe || outcome=$?
    if compgen -G "$logs/report*" >/dev/null; then
        cat "$logs"/report* >&2
        outcome=1
    fi
    rm -rf "$logs"
    return "$outcome"
}

case ${1-} in
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
        exit 0
        ;;
esac
runs=("${1:-all}")
[[ ${runs[0]} != all ]] || runs=(loom miri tsan)
found=0
for run in "${runs[@]}"; do
    case $run in
        miri | loom | tsan) ;;
        *) fail "no '$run'; usage: scripts/sanitize.sh [miri|loom|tsan|all]" ;;
    esac
    outcome=0
    # In a shell of its own: `set -e` does not hold inside a condition.
    (set -e; "$run") & wait $! || outcome=$?
    case $outcome in
        0) echo "$run: nothing found" ;;
        2) echo "$run: could not run" ;;
        *) echo "$run: FOUND SOMETHING, or did not build" ;;
    esac
    if [[ $found != 1 && $outcome != 0 ]]; then
        found=$((outcome == 2 ? 2 : 1))
    fi
done
exit "$found"
