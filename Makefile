# What people and CI run. `make` alone lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help test lint buf-breaking readme torture fuzz release bench profile

# Tools that scripts/setup.sh installs; cargo may be off PATH on a bare machine.
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/keyclasp-tools
CARGO_BIN := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin
export PATH := $(TOOLS)/bin:$(CARGO_BIN):$(PATH)

# The model of fenced revocation (tests/model) is a workspace of its own, with its own lock file.
MODEL := --manifest-path tests/model/Cargo.toml
MODEL_TARGET = --target-dir "$${CARGO_TARGET_DIR:-target}/model"

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' | column -t -s '|'

test: ## Install what the tests need, then run them all
	@set -x
	scripts/setup.sh
	cargo test --locked
	cargo test --locked $(MODEL) $(MODEL_TARGET)

lint: ## Formatting, clippy, dependencies, protobuf, documentation
	@set -x
	scripts/setup.sh ci
	cargo fmt --all --check
	cargo fmt $(MODEL) --check
	cargo clippy --locked --all-targets --all-features -- -D warnings
	cargo clippy --locked $(MODEL) $(MODEL_TARGET) --all-targets -- -D warnings
	cargo deny --locked check licenses bans sources
	cargo deny --locked $(MODEL) --config deny.toml check --allow license-not-encountered licenses bans sources
	buf lint
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items
	RUSTDOCFLAGS='-D warnings' cargo doc --locked $(MODEL) $(MODEL_TARGET) --no-deps --document-private-items

buf-breaking: ## Compare proto/keyclasp with the last release tag
	@scripts/setup.sh ci
	tag=$$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null || true)
	if [[ -z "$$tag" ]]; then
		echo 'buf-breaking: no release tag (v*) yet, nothing to compare with'
		exit
	fi
	released=$$(mktemp -d)
	trap 'rm -rf "$$released"' EXIT
	git archive "$$tag" buf.yaml proto | tar -x -C "$$released"
	buf breaking --against "$$released"
	echo "buf-breaking: compatible with $$tag"

# Longest that the first command may take to build and come up, in seconds.
READY_WITHIN ?= 1200
# Longest that it may take to stop after SIGTERM.
STOP_WITHIN ?= 60

readme: ## Run the README's two opening commands in a fresh clone of HEAD
	@command -v curl >/dev/null || { echo 'readme: needs curl' >&2; exit 1; }
	unset CARGO_TARGET_DIR MAKEFLAGS MAKELEVEL MFLAGS
	tmp=$$(mktemp -d) pid=
	trap '[[ -z "$$pid" ]] || kill -KILL "$$pid" 2>/dev/null || true; rm -rf "$$tmp"' EXIT
	fail() { printf 'readme: %s\n' "$$@" >&2; [[ ! -s "$$tmp/log" ]] || tail -n 40 "$$tmp/log" >&2; exit 1; }
	free_port() {
		local port
		while port=$$((RANDOM % 10000 + 20000)); do
			(exec 3<>"/dev/tcp/127.0.0.1/$$port") 2>/dev/null || { echo "$$port"; return; }
		done
	}
	git clone --quiet --no-local . "$$tmp/clone"
	cd "$$tmp/clone"
	echo "readme: a fresh clone of $$(git rev-parse --short HEAD)"
	for command in 'cargo run --release -- serve' 'make test'; do
		grep -qF "$$command" README.md || fail "README.md does not say '$$command'"
	done

	# Nothing of the user's is read or written: home and data are in the temporary directory; only
	# rustup and cargo stay where they are.
	export RUSTUP_HOME="$${RUSTUP_HOME:-$$HOME/.rustup}" CARGO_HOME="$${CARGO_HOME:-$$HOME/.cargo}"
	export HOME="$$tmp/home"
	export XDG_DATA_HOME="$$HOME/data" XDG_CONFIG_HOME="$$HOME/config" XDG_STATE_HOME="$$HOME/state" XDG_CACHE_HOME="$$HOME/cache"
	mkdir -p "$$HOME"
	for name in $$(compgen -e KEYCLASP_ || true); do unset "$$name"; done

	echo 'readme: cargo run --release -- serve'
	ops="127.0.0.1:$$(free_port)"
	grpc="127.0.0.1:$$(free_port)"
	export KEYCLASP_SERVER__LISTEN="$$grpc" KEYCLASP_SERVER__OPS_LISTEN="$$ops"
	# cargo run replaces itself by the program, so that the process id is the program's.
	cargo run --release -- serve </dev/null >"$$tmp/log" 2>&1 &
	pid=$$! started=$$SECONDS
	until [[ "$$(curl --silent --max-time 2 --output /dev/null --write-out '%{http_code}' "http://$$ops/readyz")" == 200 ]]; do
		kill -0 "$$pid" 2>/dev/null || { pid=; fail 'it ended before it was ready:'; }
		((SECONDS - started < $(READY_WITHIN))) || fail 'not ready within $(READY_WITHIN) s:'
		sleep 0.2
	done
	echo "readme: ready after $$((SECONDS - started)) s, most of it the build; SIGTERM"
	kill -TERM "$$pid"
	stopping=$$SECONDS
	while kill -0 "$$pid" 2>/dev/null; do
		((SECONDS - stopping < $(STOP_WITHIN))) || fail 'still running $(STOP_WITHIN) s after SIGTERM:'
		sleep 0.1
	done
	status=0
	wait "$$pid" || status=$$?
	pid=
	[[ "$$status" == 0 ]] || fail "exit status $$status after SIGTERM, not 0:"
	unset KEYCLASP_SERVER__LISTEN KEYCLASP_SERVER__OPS_LISTEN

	echo 'readme: make test'
	make test
	echo 'readme: both commands work'

torture: ## The long versions of the tests: 200 kills instead of 20, and the like
	@set -x
	scripts/setup.sh
	KEYCLASP_TORTURE=1 KEYCLASP_TORTURE_KILLS=200 cargo test --locked --test it -- --nocapture model:: store_embedded_kill::
	KEYCLASP_LINEAR_SECONDS=600 cargo test --locked --test it -- --nocapture linear::
	KEYCLASP_TORTURE=1 cargo test --locked $(MODEL) $(MODEL_TARGET) -- --nocapture

# Seconds of fuzzing.
FUZZ_SECONDS ?= 60

fuzz: ## Fuzz the parser of key texts and what Envoy asks, a minute each (FUZZ_SECONDS=…)
	@set -x
	scripts/setup.sh fuzz
	RUSTC_BOOTSTRAP=1 cargo fuzz run key_text -- -max_total_time=$(FUZZ_SECONDS) -max_len=256
	mkdir -p fuzz/corpus/check_request
	RUSTC_BOOTSTRAP=1 cargo fuzz run check_request fuzz/corpus/check_request fuzz/seeds/check_request -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096

release: ## Build target/pgo/keyclasp, optimised by a profile of its calls
	@scripts/pgo.sh

# What the harness is told.
BENCH_ARGS ?= --write docs/BENCHMARKS.md

bench: ## Measure everything, write docs/BENCHMARKS.md (BENCH_ARGS=--quick: a look whether it works)
	@set -x
	scripts/setup.sh
	scripts/pgo.sh bench
	# The stock reference and the plain keyclasp that stand beside.
	cargo build --release --locked
	cargo build --release --locked --features bench --example noop_stock --example allocations
	target="$${CARGO_TARGET_DIR:-target}"
	"$$target/pgo/load" run --plain "$$target/release" $(BENCH_ARGS)

profile: ## Count the instructions of a call, write docs/PROFILE.md (needs valgrind)
	@set -x
	scripts/setup.sh
	# rustix reads the vDSO itself, which valgrind does not show.
	RUSTFLAGS='--cfg rustix_use_libc' cargo build --release --locked --features bench --target-dir "$${CARGO_TARGET_DIR:-target}/profile" \
		--bin keyclasp --example load --example noop_stock --example allocations
	"$${CARGO_TARGET_DIR:-target}/profile/release/examples/load" profile --write docs/PROFILE.md
