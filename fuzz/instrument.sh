#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0

# Runs rustc with the instrumentation for libFuzzer. Cargo calls this script, because
# RUSTC_WORKSPACE_WRAPPER names it. Only the crates that read untrusted bytes are instrumented, and
# therefore cargo can use the dependencies of an ordinary build. The flags are those that cargo-fuzz
# sets when it uses no sanitizer. Stable Rust supports these flags too.
optimize=0
case ${CARGO_CRATE_NAME-} in
    # These crates are optimized, because the scanner runs several hundred times for each input.
    limiter_common | limiter_fuzz) optimize=2 ;;
    limiter_daemon) ;;
    *) exec "$@" ;;
esac
exec "$@" --cfg fuzzing -C passes=sancov-module \
    -C llvm-args=-sanitizer-coverage-level=4 \
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
    -C llvm-args=-sanitizer-coverage-pc-table \
    -C llvm-args=-sanitizer-coverage-trace-compares \
    -C opt-level="$optimize" -C debug-assertions=on -C overflow-checks=on
