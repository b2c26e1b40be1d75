# Everything a person does with this repository. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# Where cargo puts what it builds, for this shell's CARGO_TARGET_DIR.
TARGET := $(or $(CARGO_TARGET_DIR),target)
LAB := $(TARGET)/debug/lab

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## Watch a tenant's Service get its IP and answer, on real Kubernetes (ONCE=1: without the menu at the end)
	@exec $(LAB) demo $(if $(ONCE),--once)

.PHONY: build
build: ## Build hub, agent and lab
	$(CARGO) build --workspace --bins

.PHONY: test
test: build packages lab-build ## Run every test
	$(CARGO) test --workspace --no-fail-fast

.PHONY: lint
lint: ## Check formatting, clippy, dependencies (with cargo-deny) and charts
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- --deny warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	  $(CARGO) deny --workspace --offline --log-level error check bans licenses sources; \
	else \
	  echo "cargo-deny is not installed, so dependencies were not checked: make install-deny"; \
	fi
	@$(MAKE) --no-print-directory lint-charts

.PHONY: lint-charts
lint-charts: lab-build ## Check the charts with the real helm
	@$(CARGO) test --quiet --test charts

.PHONY: advisories
advisories: ## Check dependencies against known vulnerabilities (needs a network: it fetches their database)
	$(CARGO) deny --workspace check advisories

.PHONY: install-deny
install-deny: ## Install cargo-deny
	$(CARGO) install --locked cargo-deny

.PHONY: bench
bench: packages lab-build ## Compare the time to an IP with MetalLB's own (ARGS: see docs/benchmarks.md)
	$(CARGO) bench --package berth-wire --bench time_to_ip -- $(ARGS)

.PHONY: bench-fairness
bench-fairness: packages lab-build ## Compare the time to an IP alone and beside tenants that misbehave (ARGS: see docs/benchmarks.md)
	$(CARGO) bench --package berth-wire --bench time_to_ip -- --only fairness $(ARGS)

.PHONY: bench-session
bench-session: packages lab-build ## Measure sessions with thousands of simulated agents (ARGS: see docs/benchmarks.md)
	$(CARGO) bench --package berth-wire --bench session -- $(ARGS)

.PHONY: bench-engine
bench-engine: ## Measure the session's state machines alone
	$(CARGO) bench --package berth-wire --bench engine

.PHONY: bench-path
bench-path: packages lab-build ## Measure with packets what clients of an address notice (ARGS: see docs/benchmarks.md)
	$(CARGO) bench --package berth-wire --bench path -- $(ARGS)

.PHONY: sim
sim: ## Try to break the session engine with N schedules in virtual time (N=10000, SEED=1)
	$(CARGO) run --quiet --package berth-sim -- --schedules $(or $(N),10000) --seed $(or $(SEED),1)

# cargo-fuzz is on PATH or said where; it takes a nightly compiler because libFuzzer's instrumentation does.
.PHONY: fuzz
fuzz: ## Search for input that breaks a target (T=wire, hub, agent, names, csr or policy; SECONDS=300)
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { \
	  echo "cargo-fuzz is not installed: rustup toolchain install nightly && cargo install --locked cargo-fuzz"; exit 1; }
	mkdir -p fuzz/found/$(or $(T),hub)
	cd fuzz && $(CARGO) +nightly fuzz run --fuzz-dir . $(or $(T),hub) found/$(or $(T),hub) corpus/$(or $(T),hub) -- \
	  -max_total_time=$(or $(SECONDS),300) -max_len=4096 -malloc_limit_mb=64 -print_final_stats=1

.PHONY: generate
generate: ## Write the generated files: CRDs, the manifest of `token create`, docs/conformance.md, docs/hostile.md
	$(CARGO) run --quiet --package berth-hub -- crds --dir deploy/charts/berth-hub/crds
	BERTH_GENERATE=1 $(CARGO) test --quiet --test conformance --test charts

.PHONY: release-descriptor
release-descriptor: ## Keep today's wire contract as the released one, in the commit of a release (proto/released)
	@$(CARGO) build --quiet --package berth-wire --bin descriptors
	$(TARGET)/debug/descriptors > proto/released/berth.v1.binpb

.PHONY: packages
packages: build ## Install the Debian packages that the lab needs (as root), or name them
	@$(LAB) packages

.PHONY: lab-build
lab-build: build ## Build the parts of the lab: about 9 minutes the first time, then cached outside the clone
	@$(LAB) build

.PHONY: lab
lab: build ## Start the lab with hub and agent, and keep it until Ctrl-C
	@exec $(LAB) up
