#!/usr/bin/env bash
# Builds the program that is released: profile-guided, so that the compiler knows from a run which code is
# hot. `make release` calls it. It builds keyclasp with counters, has the load harness train it on the
# embedded store and on a Redis of its own, builds keyclasp again by what was counted, and tries that one
# with the same calls. Plain `cargo build --release` knows nothing of all this.
#
# Everything is in target/pgo (or $CARGO_TARGET_DIR/pgo); the program is target/pgo/keyclasp.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

main() {
    scripts/setup.sh release
    local target host work profdata
    target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
    work="$target/pgo"
    # RUSTFLAGS are split at spaces.
    [[ "$work" != *[[:space:]]* ]] || fail "$work has a space in its path. Set CARGO_TARGET_DIR to one without."
    host=$(rustc -vV | sed -n 's/^host: //p')
    profdata="$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata"
    rm -rf "$work/raw" "$work/guided" "$work/keyclasp"
    mkdir -p "$work"
    unset LLVM_PROFILE_FILE

    say "building keyclasp with counters"
    build "-Cprofile-generate=$work/raw" "$work/counting"
    say "building the load harness"
    cargo build --release --locked --features bench --example load
    say "training"
    "$target/release/examples/load" train "$work/counting/$host/release/keyclasp" --scratch "$work"
    "$profdata" merge --output "$work/keyclasp.profdata" "$work/raw"
    # From nothing: cargo does not look into a profile, and would keep what an earlier one made.
    say "building keyclasp by what was counted"
    build "-Cprofile-use=$work/keyclasp.profdata" "$work/guided"
    cp "$work/guided/$host/release/keyclasp" "$work/keyclasp.new"
    say "trying it"
    "$target/release/examples/load" train "$work/keyclasp.new" --scratch "$work"
    mv "$work/keyclasp.new" "$work/keyclasp"
    say "$("$work/keyclasp" --version): $work/keyclasp"
}

# build FLAG DIRECTORY: --target keeps the flag away from build scripts and macros, which run in the build.
build() {
    RUSTFLAGS="${RUSTFLAGS:+$RUSTFLAGS }$1" \
        cargo build --release --locked --bin keyclasp --target "$host" --target-dir "$2"
}

say() {
    printf 'pgo: %s\n' "$1" >&2
}

fail() {
    say "$1"
    exit 1
}

main
