#!/usr/bin/env bash
# Builds the program that is released: profile-guided, so that the compiler knows from a run which code is
# hot. It builds keyclasp and the load harness with counters, has the harness call keyclasp in all the ways it is
# called, on the embedded store and on a Redis of its own, builds keyclasp again by what was counted, and tries
# that one with the same calls. Plain `cargo build --release` knows nothing of all this.
#
#   scripts/pgo.sh          `make release`: target/pgo/keyclasp
#   scripts/pgo.sh bench    `make bench`: that, and beside it target/pgo/load, the harness with the references
#                           that keyclasp is compared with, built by what was counted of them in the same
#                           training. Nothing is built if both are newer than what they are made of.
#
# Everything is in target/pgo (or $CARGO_TARGET_DIR/pgo).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

main() {
    local target host work llvm_profdata
    target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
    work="$target/pgo"
    if [[ "${1:-}" == bench ]] && is_fresh; then
        say "$work/keyclasp and $work/load are newer than what they are made of"
        return
    fi
    scripts/setup.sh release
    # RUSTFLAGS are split at spaces.
    [[ "$work" != *[[:space:]]* ]] || fail "$work has a space in its path. Set CARGO_TARGET_DIR to one without."
    host=$(rustc -vV | sed -n 's/^host: //p')
    llvm_profdata="$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata"
    rm -rf "$work/raw" "$work/guided" "$work/keyclasp" "$work/load"
    mkdir -p "$work"
    unset LLVM_PROFILE_FILE

    local counting="$work/counting/$host/release" guided="$work/guided/$host/release"
    say "building keyclasp and the load harness with counters"
    build counting "-Cprofile-generate=$work/raw"
    build_load counting "-Cprofile-generate=$work/raw"
    say "training"
    "$counting/examples/load" train "$counting/keyclasp" --scratch "$work"
    merge "$counting/keyclasp" "$work/keyclasp.profdata"
    # From nothing: cargo does not look into a profile, and would keep what an earlier one made.
    say "building keyclasp by what was counted"
    build guided "$(by_profile "$work/keyclasp.profdata")"
    cp "$guided/keyclasp" "$work/keyclasp.new"
    say "trying it"
    LLVM_PROFILE_FILE=/dev/null "$counting/examples/load" train "$work/keyclasp.new" --scratch "$work"
    if [[ "${1:-}" == bench ]]; then
        say "building the load harness by what was counted"
        merge "$counting/examples/load" "$work/load.profdata"
        build_load guided "$(by_profile "$work/load.profdata")"
        cp "$guided/examples/load" "$work/load"
    fi
    mv "$work/keyclasp.new" "$work/keyclasp"
    say "$("$work/keyclasp" --version): $work/keyclasp"
}

# by_profile PROFILE: the flags of a build by what was counted. Hot is what makes up 99.9 % of what was done, not 99 %:
# the loops of Argon2 alone are most of that.
by_profile() {
    printf '%s' "-Cprofile-use=$1 -Cllvm-args=-profile-summary-cutoff-hot=999000"
}

# Whether both programs are there, and newer than all that they are made of.
is_fresh() {
    local oldest="$work/load"
    [[ -e "$work/keyclasp" && -e "$work/load" ]] || return
    [[ "$work/load" -ot "$work/keyclasp" ]] || oldest="$work/keyclasp"
    [[ -z "$(find src proto benches build.rs Cargo.toml Cargo.lock rust-toolchain.toml scripts/pgo.sh \
        -newer "$oldest" -type f -not -name '*.md' -print -quit)" ]]
}

# build DIRECTORY FLAG
build() {
    cargo_build "$2" --bin keyclasp --target-dir "$work/$1"
}

# build_load DIRECTORY FLAG
build_load() {
    cargo_build "$2" --features bench --example load --target-dir "$work/$1"
}

# cargo_build FLAG ARGUMENT...: --target keeps the flag away from build scripts and macros, which run in the build.
cargo_build() {
    RUSTFLAGS="${RUSTFLAGS:+$RUSTFLAGS }$1" cargo build --release --locked --target "$host" "${@:2}"
}

# merge PROGRAM PROFILE: what PROGRAM counted, and no other program. The names of the files that it writes begin
# with a number which stands for it; what it is called by `%m`, a start tells.
merge() {
    local mark
    mark=$(mktemp -d)
    LLVM_PROFILE_FILE="$mark/%m" "$1" --help >/dev/null
    "$llvm_profdata" merge --output "$2" "$work/raw/default_$(ls "$mark")"*.profraw
    rm -r "$mark"
}

say() {
    printf 'pgo: %s\n' "$1" >&2
}

fail() {
    say "$1"
    exit 1
}

main "$@"
