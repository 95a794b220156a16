# Caplane: `make run` and `make test` are all a newcomer needs.
# Every target says what it does; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# Where cargo builds; an environment variable of the same name is respected.
CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR
BIN := $(CARGO_TARGET_DIR)/release
# One profile for everything, so that nothing is compiled twice; the lock file decides versions.
CARGO_FLAGS := --release --locked --workspace
# Tools that only `make check` needs live in a cache, outside the tree.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/caplane
CARGO_DENY_VERSION := 0.20.2
# Seconds each fuzz target runs.
SECONDS := 60

say = printf '\n==> %s\n'

.PHONY: help deps build run test check gates bench bars profile peers soak scale asan udp-forward fuzz tidy cargo-deny

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Each package: its name, the test that shows it is here, what it is for.
deps: ## Install what the build needs (Debian packages, by apt)
	@command -v cargo >/dev/null || { echo "deps: cargo is missing; install Rust (see rust-version in Cargo.toml), then try again" >&2; exit 1; }
	@names=""; \
	need() { \
		if eval "$$2" >/dev/null 2>&1; then return; fi; \
		names="$$names $$1"; echo "deps: $$1 is missing; $$3"; \
	}; \
	need cmake 'command -v cmake' 'it builds BoringSSL, the TLS of the data plane'; \
	need g++ 'command -v g++' 'it compiles BoringSSL'; \
	need clang 'command -v clang' 'its headers serve the bindings of BoringSSL'; \
	need libclang-dev 'find /usr/lib /usr/lib64 -name "libclang*.so*" | grep .' 'it makes the bindings of BoringSSL'; \
	need pkg-config 'command -v pkg-config' 'build scripts find libraries with it'; \
	need iproute2 'command -v ip' 'a test lowers the MTU of a link in a network namespace'; \
	need valgrind 'command -v valgrind' 'it counts instructions (make gates)'; \
	need python3-venv 'python3 -c "import venv, ensurepip"' 'the tests run clients of the wire format and of the API written in Python'; \
	need python3-pip 'python3 -m pip --version' 'it installs the QUIC and gRPC libraries of those clients'; \
	if [ -z "$$names" ]; then echo "deps: everything the build needs is here"; exit 0; fi; \
	command -v apt-get >/dev/null || { echo "deps: no apt-get here; install these by your own system's means:$$names" >&2; exit 1; }; \
	sudo=""; \
	if [ "$$(id -u)" != 0 ]; then \
		sudo="sudo"; \
		command -v sudo >/dev/null || { echo "deps: neither root nor sudo; as root: apt-get install$$names" >&2; exit 1; }; \
	fi; \
	echo "deps: running $$sudo apt-get install$$names"; \
	$$sudo apt-get update -q </dev/null; \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$names </dev/null

build: deps ## Build all programs
	@$(say) "building all programs (the first time takes some minutes: BoringSSL is built too)"
	cargo build $(CARGO_FLAGS) --bins

run: build ## Build, then start a whole fabric on this machine and talk through it
	@$(say) "starting a fabric: $(BIN)/caplane up $(ARGS)"
	@exec "$(BIN)/caplane" up $(ARGS)

test: deps ## Build, then run everything that must pass
	@$(say) "building all programs and tests"
	cargo build $(CARGO_FLAGS) --bins --tests
	@$(say) "running all tests"
	cargo test $(CARGO_FLAGS)
	@$(say) "all tests passed; 'make check' runs the linters, 'make run' shows the fabric at work"

check: deps cargo-deny ## Formatting, lints, documentation, dependencies, tidiness, instruction counts
	@$(say) "formatting"
	cargo fmt --all --check
	@$(say) "clippy"
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	@$(say) "documentation"
	RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_FLAGS) --no-deps
	@$(say) "dependencies: duplicates, licences, sources"
	PATH="$(CACHE)/bin:$$PATH" cargo deny --locked check bans licenses sources
	@$(MAKE) tidy
	@$(MAKE) gates
	@$(say) "all checks passed"

gates: ## Instructions that a message takes, against the committed counts
	@$(say) "instruction counts (callgrind; to write them anew: make gates ARGS=--update)"
	cargo bench --locked -p caplane-core --bench gates -- $(ARGS)

tidy: ## The rules of this house: files, names, unsafe, dependency table
	@$(say) "tidiness"
	cargo test $(CARGO_FLAGS) --test tidy -- --nocapture

# Unoptimised on purpose: it builds in 40 seconds on 2 cores and checks this workspace in one.
cargo-deny:
	@if PATH="$(CACHE)/bin:$$PATH" command -v cargo-deny >/dev/null; then exit 0; fi; \
	$(say) "installing cargo-deny $(CARGO_DENY_VERSION) into $(CACHE) (about a minute)"; \
	env -u CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-deny --version $(CARGO_DENY_VERSION) \
		--locked --debug --no-default-features --root "$(CACHE)" </dev/null

bench: build ## Measure: CPU time of the router per message
	@$(say) "measuring (about 2 minutes; close other programs)"
	"$(BIN)/caplane-load" figures $(ARGS)

bars: build ## Measure the router against its bars (ARGS="--row naive" for one)
	@$(say) "measuring against the bars (some minutes; close other programs)"
	"$(BIN)/caplane-load" bars $(ARGS)

profile: build ## Where the nanoseconds of a message go in the router (needs perf; ARGS="--top 10" names functions)
	@command -v perf >/dev/null || { echo "profile: perf is missing; on Debian: apt-get install linux-perf" >&2; exit 1; }
	@$(say) "profiling (about 2 minutes; close other programs)"
	benches/profile/profile.py "$(BIN)" $(ARGS)

# Not in `make test`: it installs other people's programs and takes an hour.
peers: build ## Measure other message routers beside ours (JSON=FILE for results, ARGS="--only nats --path loopback" for less)
	@$(say) "measuring peers; what is not installed yet is built first, which takes long"
	"$(BIN)/caplane-load" peers $(if $(JSON),--json "$(JSON)") $(ARGS)

soak: build ## Balance the books under everything at once (ARGS="--seconds 600 --driver mio")
	@$(say) "soaking the router: full speed, 1 % loss, changing tables, dying peers (10 minutes a driver unless told otherwise)"
	"$(BIN)/caplane-load" soak $(ARGS)

scale: build ## Measure the control plane: 100,000 agents, 5,000 classes, 10 routers and 200 simulated ones
	@$(say) "measuring the control plane at scale (some minutes; close other programs)"
	"$(BIN)/caplane-load" control $(ARGS)

# The runtime of AddressSanitizer comes with nightly toolchains only. BoringSSL is instrumented too; a table of its
# Keccak (kRoundConstants) is there twice, which trips the check for double definitions: that one is off.
asan: deps ## Run the transport's tests under AddressSanitizer (needs a nightly toolchain)
	@rustup toolchain list 2>/dev/null | grep -q nightly || { \
		echo "asan: no nightly toolchain here; 'rustup toolchain install nightly' gets one, then try again" >&2; exit 2; }
	@$(say) "transport's tests under AddressSanitizer (builds for itself, in $(CARGO_TARGET_DIR)/asan)"
	ASAN_OPTIONS=detect_odr_violation=0 RUSTFLAGS="-Zsanitizer=address" CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=line-tables-only \
		cargo +nightly test --locked -p caplane-transport --lib --tests \
		--target "$$(rustc -vV | sed -n 's/^host: //p')" --target-dir "$(CARGO_TARGET_DIR)/asan" -- $(ARGS)

# Its own project: tokio-uring brings older versions of crates that we have.
udp-forward: deps ## Measure one UDP hop over epoll, io_uring and tokio-uring
	@$(say) "one UDP hop, three drivers (a minute)"
	cd benches/udp-forward && CARGO_TARGET_DIR="$(CACHE)/udp-forward" cargo run --release --locked -- $(ARGS)

fuzz: deps ## Run each fuzz target for SECONDS=60
	@$(say) "fuzzing, $(SECONDS) seconds a target"
	fuzz/run.sh $(SECONDS)
