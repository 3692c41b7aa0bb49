# `make` lists what there is. Recipes call compose/ and cargo; they hold no logic of their own beyond the order.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory --no-builtin-rules
.DEFAULT_GOAL := help

# Where `supervisor` goes: /usr/local where that can be written, else ~/.local.
PREFIX ?= $(shell if [ -w /usr/local/bin ]; then echo /usr/local; else echo "$$HOME/.local"; fi)
DOCKER ?= docker
CARGO ?= cargo
# Set to 1, a missing Docker engine or CLI is a failure of `make test`, not a skip.
REQUIRE_DOCKER ?=
# More arguments for `supervisor up`, as in `make up UP_ARGS='--runtime process'`, and for `cargo nextest run`.
UP_ARGS ?=
NEXTEST_ARGS ?=

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
SUPERVISOR = $(TARGET_DIR)/release/supervisor
WORKER = $(TARGET_DIR)/$(HOST)/release/worker
HOSTILE = $(TARGET_DIR)/$(HOST)/release/hostile
TOOLS := $(CURDIR)/.cache/tools
SCRIPTS := compose/fetch-cli compose/base-image compose/image compose/service-image .ci/run
DENY_VERSION := 0.20.2
CARGO_FUZZ_VERSION := 0.13.1
export DOCKER

.PHONY: help
help: ## List the targets
	@echo "Two commands to a first answer:  make up  &&  supervisor submit examples/request.txt"
	@echo
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

.PHONY: up
up: install ## Build, install, fetch the CLI, make the image, start the daemon, say what to type next
	@compose/fetch-cli
	@compose/image --if-engine
	@$(if $(CLI_CACHE),SUPERVISOR_CLAUDE="$$(compose/fetch-cli --path)" )'$(PREFIX)/bin/supervisor' up --detach $(UP_ARGS)

.PHONY: down
down: ## Stop the daemon and its containers; the next `make up` resumes what was interrupted
	@service=$$($(DOCKER) ps --quiet --filter 'label=com.docker.compose.project.working_dir=$(CURDIR)/compose' 2>/dev/null) || true; \
	[ -z "$$service" ] || { echo "==> stopping the service"; $(DOCKER) stop --time 60 $$service >/dev/null; }
	@supervisor='$(PREFIX)/bin/supervisor'; \
	[ -x "$$supervisor" ] || supervisor=$$(command -v supervisor) || { echo "==> supervisor is not installed: nothing to stop"; exit 0; }; \
	"$$supervisor" down

.PHONY: test
test: worker hostile ## Run all tests; say what was skipped and why (REQUIRE_DOCKER=1: fail instead)
	@skips='$(TARGET_DIR)/test-skips'; : >"$$skips"; failed=0; \
	if [ '$(REQUIRE_DOCKER)' = 1 ]; then export REQUIRE_DOCKER=1; compose/fetch-cli; compose/image; \
	else unset REQUIRE_DOCKER; compose/image --if-engine && compose/fetch-cli || echo "==> going on without: tests that need it are skipped"; fi; \
	cli=$$(compose/fetch-cli --path); [ ! -x "$$cli" ] || export SUPERVISOR_CLAUDE="$${SUPERVISOR_CLAUDE:-$$cli}"; \
	export TEST_SKIPS="$$skips" SUPERVISOR_WORKER='$(WORKER)' SUPERVISOR_HOSTILE='$(HOSTILE)'; \
	echo "==> documentation tests"; $(CARGO) test --workspace --doc --quiet || failed=$$?; \
	echo "==> tests"; \
	if $(CARGO) nextest --version >/dev/null 2>&1; then $(CARGO) nextest run --workspace $(NEXTEST_ARGS) || failed=$$?; \
	else echo "==> cargo-nextest is not installed: using cargo test, without its time limits"; \
	  $(CARGO) test --workspace --all-targets --no-fail-fast || failed=$$?; fi; \
	if [ -s "$$skips" ]; then echo "==> skipped:"; sort -u "$$skips"; \
	  if [ '$(REQUIRE_DOCKER)' = 1 ]; then echo "==> REQUIRE_DOCKER=1: a skip is a failure"; failed=$${failed/#0/1}; fi; \
	else echo "==> nothing was skipped"; fi; \
	exit $$failed

.PHONY: attack
attack: worker hostile image ## Have a hostile agent try every wall of its container (docs/walls.md), and count which held
	@compose/fetch-cli; rows='$(TARGET_DIR)/attack-rows'; : >"$$rows"; failed=0; \
	export REQUIRE_DOCKER=1 ATTACK_ROWS="$$rows" SUPERVISOR_WORKER='$(WORKER)' SUPERVISOR_HOSTILE='$(HOSTILE)'; \
	export SUPERVISOR_CLAUDE="$${SUPERVISOR_CLAUDE:-$$(compose/fetch-cli --path)}"; \
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  $(CARGO) nextest run --package supervisor -E 'test(/^attack::/) | binary(walls)' $(NEXTEST_ARGS) || failed=$$?; \
	else $(CARGO) test --package supervisor --test walls && $(CARGO) test --package supervisor --test it attack:: || failed=$$?; fi; \
	sed -n 's/^did not hold/==> did not hold/p' "$$rows"; \
	echo "==> $$(grep -c '^held' "$$rows" || true) walls held, $$(grep -c '^did not hold' "$$rows" || true) did not"; \
	exit $$failed

.PHONY: image
image: ## Make the image of worker containers, with its base image, where it is not up to date
	@compose/image

.PHONY: check
check: check-fmt check-clippy check-deny check-generated check-docs check-scripts ## Formatting, lints, dependencies, generated files, documentation, scripts

# More arguments, as in `make bench-gateway BENCH_ARGS='--rounds 3 --without-litellm'`.
BENCH_ARGS ?= --write docs/performance.md
.PHONY: bench-gateway
bench-gateway: cargo ## Measure the gateway beside nginx and LiteLLM; write docs/performance.md
	@$(CARGO) run --release --package gateway --example bench -- $(BENCH_ARGS)

# How long each target is run, in seconds; the tests run each for a few.
FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: cargo ## Hand in 1,000,000 fuzzed results and look at the memory; then fuzz each parser for a minute
	@$(CARGO) build --release --package fuzz --quiet
	@'$(TARGET_DIR)/release/fuzz' intake
	@'$(TARGET_DIR)/release/fuzz' run --seconds $(FUZZ_SECONDS)

# What is found anew goes into .cache/fuzz; what was wrong, into crates/fuzz/libfuzzer/artifacts.
LIBFUZZER = $(CARGO) fuzz run --fuzz-dir crates/fuzz/libfuzzer --target-dir '$(TARGET_DIR)/libfuzzer' --sanitizer none any
.PHONY: fuzz-guided
fuzz-guided: cargo $(if $(shell command -v cargo-fuzz),,$(TOOLS)/bin/cargo-fuzz) ## Fuzz each parser with libFuzzer, led by what it reaches, for a minute (FUZZ_SECONDS=n)
	@export PATH="$$PATH:$(TOOLS)/bin"; cp -- Cargo.lock crates/fuzz/libfuzzer/Cargo.lock; \
	for corpus in crates/fuzz/corpus/*; do \
	  export FUZZ_TARGET="$${corpus##*/}"; found=".cache/fuzz/$$FUZZ_TARGET"; mkdir -p "$$found"; \
	  echo "==> $$FUZZ_TARGET"; \
	  $(LIBFUZZER) "$$found" "$$corpus" -- -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 2>"$$found.log" || { tail -n 40 "$$found.log" >&2; exit 1; }; \
	  grep -E 'number_of_executed_units|new_units_added' "$$found.log"; \
	done

.PHONY: bench-recovery
bench-recovery: supervisor worker ## Measure how long a restart with 100,000 tasks takes, to the first dispatch
	@SUPERVISOR_WORKER='$(WORKER)' $(CARGO) run --release --package supervisor --example recovery

# How often the daemon is killed, and more arguments, as in `make soak KILLS=50 SOAK_ARGS='--seed 7 --keep'`.
KILLS ?= 1000
SOAK_ARGS ?= --peers .cache/soak --write docs/reliability.md
.PHONY: soak
soak: supervisor worker ## Kill the daemon 1000 times (KILLS=n) and count what it costs, then soak-containers; write docs/reliability.md
	@$(CARGO) run --package supervisor --example soak -- \
	  --supervisor '$(SUPERVISOR)' --worker '$(WORKER)' --kills '$(KILLS)' $(SOAK_ARGS)
	@$(MAKE) soak-containers

# How often something is interrupted around three containers, for about eight seconds each, and more arguments.
INTERRUPTIONS ?= 75
CONTAINER_ARGS ?= --write docs/reliability.md
.PHONY: soak-containers
soak-containers: supervisor worker image ## Kill containers, what is in them, their engine and the daemon 75 times (INTERRUPTIONS=n); needs root
	@$(CARGO) run --package supervisor --example soak -- \
	  --supervisor '$(SUPERVISOR)' --worker '$(WORKER)' --containers '$(INTERRUPTIONS)' $(CONTAINER_ARGS)

# The first seed and how many; with one seed its trace is shown. A fault of `docs/simulation.md` can be planted;
# `make simulate-mutants SIMULATE_ARGS='--write docs/simulation.md'` writes the table of them anew.
SEEDS ?= 20000
SEED ?= 1
MUTANT ?=
SIMULATE = $(CARGO) run --release --quiet --package supervisor --features simulate --bin simulate --
.PHONY: simulate
simulate: cargo ## Play the daemon on simulated files, containers and time: SEEDS=n [SEED=first]
	@$(SIMULATE) --seeds $(SEEDS) --seed $(SEED) $(if $(MUTANT),--mutant $(MUTANT)) $(SIMULATE_ARGS)

.PHONY: simulate-mutants
simulate-mutants: cargo ## See that the simulation finds each fault that is planted
	@$(SIMULATE) --mutants --seeds $(SEEDS) $(SIMULATE_ARGS)

.PHONY: clean
clean: ## Remove target, .cache and our images; never tasks, results, logins or the journal
	@compose/image --remove
	@rm -rf -- '$(TARGET_DIR)' .cache
	@echo "==> removed target, .cache and our images; tasks, results, auth-homes and .supervisor are as they were"

.PHONY: service
service: service-image image ## Run the supervisor in a container, by Docker Compose (for servers)
	@if $(DOCKER) compose version >/dev/null 2>&1; then compose='$(DOCKER) compose'; else compose=docker-compose; fi; \
	COMPOSE_PROJECT_NAME="$${COMPOSE_PROJECT_NAME:-supervisor}" SUPERVISOR_DIR="$${SUPERVISOR_DIR:-$(CURDIR)}" SUPERVISOR_VERSION='$(VERSION)' $$compose -f compose/compose.yaml up -d

.PHONY: service-image
service-image: supervisor worker ## Make the image of the supervisor itself
	@compose/service-image '$(VERSION)' '$(SUPERVISOR)' '$(WORKER)'

# --- steps of the above -------------------------------------------------------------------------------------------

.PHONY: cargo
cargo:
	@command -v $(CARGO) >/dev/null || { \
	  echo "make: cargo is not on the PATH" >&2; \
	  echo "  cure: install Rust $$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer (rustup), then open a new shell" >&2; exit 1; }

.PHONY: supervisor
supervisor: cargo
	@echo "==> build: supervisor"
	@$(CARGO) build --release --package supervisor

# Static, because it is process 1 in images that may have no C library. With --target, RUSTFLAGS stay off the macros.
.PHONY: worker
worker: cargo
	@case '$(HOST)' in *-linux-*) ;; *) \
	  echo "make: the worker is a Linux program, and this host is $(HOST)" >&2; \
	  echo "  cure: build on Linux (a virtual machine will do)" >&2; exit 1;; esac
	@echo "==> build: worker (static)"
	@RUSTFLAGS="$${RUSTFLAGS:-} -C target-feature=+crt-static" $(CARGO) build --release --package worker --target '$(HOST)'

# As static as the worker, and for the same reason: it is an agent of the tests, in any image.
.PHONY: hostile
hostile: cargo
	@echo "==> build: hostile (static)"
	@RUSTFLAGS="$${RUSTFLAGS:-} -C target-feature=+crt-static" $(CARGO) build --release --package hostile --target '$(HOST)'

# A new file under a temporary name, then a rename: a running daemon keeps the file that it started from.
.PHONY: install
install: supervisor worker
	@put() { cmp -s "$$1" "$$2" && return; mkdir -p "$$(dirname "$$2")"; cp -- "$$1" "$$2.new.$$$$"; mv -f -- "$$2.new.$$$$" "$$2"; echo "==> installed $$2"; }; \
	put '$(WORKER)' '$(PREFIX)/lib/supervisor/worker'; \
	put '$(SUPERVISOR)' '$(PREFIX)/bin/supervisor'; \
	case ":$$PATH:" in *:'$(PREFIX)/bin':*) ;; *) echo "==> $(PREFIX)/bin is not on your PATH: export PATH=\"$(PREFIX)/bin:\$$PATH\"";; esac

.PHONY: check-fmt
check-fmt: cargo
	@echo "==> formatting"
	@$(CARGO) fmt --all --check

.PHONY: check-clippy
check-clippy: cargo
	@echo "==> lints"
	@$(CARGO) clippy --workspace --all-targets -- -D warnings
	@$(CARGO) clippy --package supervisor --features simulate --bin simulate -- -D warnings

# Built without optimisation: 45 s instead of minutes, and a check still takes under two.
$(TOOLS)/bin/cargo-deny: TOOL = cargo-deny@$(DENY_VERSION)
$(TOOLS)/bin/cargo-fuzz: TOOL = cargo-fuzz@$(CARGO_FUZZ_VERSION)
$(TOOLS)/bin/cargo-deny $(TOOLS)/bin/cargo-fuzz:
	@echo "==> installing $(TOOL) into .cache/tools"
	@CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR='$(TOOLS)/build' \
	  $(CARGO) install --quiet --locked --debug --root '$(TOOLS)' $(TOOL)
	@rm -rf -- '$(TOOLS)/build'

.PHONY: check-deny
check-deny: cargo $(if $(shell command -v cargo-deny),,$(TOOLS)/bin/cargo-deny)
	@echo "==> dependencies: licences, sources, bans"
	@export PATH="$$PATH:$(TOOLS)/bin"; \
	cargo-deny --log-level error check --hide-inclusion-graph bans licenses sources; \
	if timeout 120 cargo-deny --log-level off fetch db >/dev/null 2>&1; then \
	  echo "==> dependencies: advisories"; cargo-deny --log-level error check advisories; \
	else echo "==> dependencies: advisories not checked, their database can't be fetched"; fi

# Schemas, completions and the command reference are compared by tests; a command named here compares them without.
CHECK_GENERATED ?=
.PHONY: check-generated
check-generated:
	@$(if $(CHECK_GENERATED),echo "==> generated files"; $(CHECK_GENERATED),:)

.PHONY: check-docs
check-docs: cargo
	@echo "==> documentation"
	@RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps --workspace --quiet

.PHONY: check-scripts
check-scripts:
	@if command -v shellcheck >/dev/null; then echo "==> scripts"; shellcheck --external-sources $(SCRIPTS) compose/lib.sh; \
	else echo "==> scripts: not checked, shellcheck is not installed"; fi
	@if $(DOCKER) compose version >/dev/null 2>&1; then $(DOCKER) compose -f compose/compose.yaml config --quiet; \
	elif command -v docker-compose >/dev/null; then docker-compose -f compose/compose.yaml config --quiet; fi
