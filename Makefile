# Everything that a person or CI runs. Nothing to prepare but Rust, Go, npm and gcc: what else is needed is installed or built,
# into $(LINK_CACHE), which may be deleted at any time.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Where all is kept that is built once: programs, images, the local cluster, Cargo's target folder.
export LINK_CACHE ?= $(HOME)/.cache/link-operator
export CARGO_TARGET_DIR ?= $(LINK_CACHE)/target
export PATH := $(LINK_CACHE)/bin:$(PATH)

# Of the binary in the image: `dev` (optimised enough for tests and the demo) or `release`.
PROFILE ?= dev
# Processes that Cargo and its compilers may run side by side.
JOBS ?= 2
# Where `make demo` runs: `kind`, or `local`: deploy/local, without Docker.
CLUSTER ?= $(shell deploy/kind/cluster usable && echo kind || echo local)

CARGO_DENY := 0.20.2
CARGO_CYCLONEDX := 0.5.9
IMAGE := localhost/link-operator/link-operator
BINARY := $(CARGO_TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/link-operator
SCRIPTS := .ci/run benches/peers/install charts/check tests/protections deploy/phase deploy/install deploy/render deploy/sbom deploy/demo/demo deploy/kind/cluster deploy/local/cluster \
  deploy/local/with-cluster $(wildcard deploy/demo/*.sh deploy/local/images/*/*.sh)

CARGO := cargo --locked
PHASE := deploy/phase
# A Cargo tool, built for use rather than speed.
INSTALL = $(PHASE) "cargo install" env CARGO_TARGET_DIR=$(LINK_CACHE)/target-tools CARGO_PROFILE_DEV_DEBUG=0 \
  cargo install --quiet --debug --locked -j$(JOBS) --root $(LINK_CACHE)

.PHONY: help demo demo-down test check unit integration soak faults protections bench bench-scale e2e outage build crds manifests image install tools

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## a link at work: builds all, starts a cluster (CLUSTER=kind|local), links a million rows (SOURCE=sqlserver SQLSERVER=…: of yours)
	@CLUSTER=$(CLUSTER) deploy/demo/demo up

demo-down: ## removes the demo and its cluster
	@CLUSTER=$(CLUSTER) deploy/demo/demo down

test: ## every test, on a cluster of its own; the first run builds that cluster (20 to 40 minutes)
	@$(PHASE) "make test" $(MAKE) --no-print-directory tools check unit integration e2e

check: ## format, lints, licences, charts, scripts (ADVISORIES=1: also known vulnerabilities, from GitHub)
	@$(PHASE) "Format" cargo fmt --check
	@$(PHASE) "Lints" $(CARGO) clippy -j$(JOBS) --all-targets -- -D warnings
	@$(PHASE) "Licences, sources, duplicates" $(CARGO) deny check --hide-inclusion-graph $(if $(ADVISORIES),advisories) licenses bans sources
	@$(PHASE) "Charts" charts/check
	@$(PHASE) "Scripts" bash -euc 'shellcheck $(SCRIPTS); shellcheck -e SC2034 deploy/local/lib/*.sh'

unit: ## tests without anything around them
	@$(PHASE) "Unit tests" $(CARGO) test -j$(JOBS) --lib --bins

integration: ## tests against PostgreSQL, Azurite and an API server on loopback
	@$(PHASE) "Integration tests" $(CARGO) test -j$(JOBS) --test integration

soak: ## kills the real process 200 times, at every failpoint and at odd moments (SOAK=n: n times)
	@$(PHASE) "Soak" env SOAK=$${SOAK:-200} $(CARGO) test -j$(JOBS) --test integration -- --nocapture process::kills

bench: ## compares with peers on this machine: COPY, pgcopydb, Sling, native replication (ROWS=n, UPDATES=n, SECONDS=n)
	@benches/peers/install
	@$(PHASE) "Benchmarks" $(CARGO) bench -j$(JOBS) --bench peers

bench-scale: ## what a thousand links, and a link of 10,000 tables, cost controller and API server (LINKS=n, TABLES=n, BIG=n; needs root)
	@$(PHASE) "kwok" deploy/local/cluster deps kwok
	@$(PHASE) "Scale" $(CARGO) bench -j$(JOBS) --bench scale

faults: ## fails, delays and contradicts every call of the controller to the API server in every way (FAULTS=each: in one way)
	@$(PHASE) "Faults" env FAULTS=$${FAULTS:-all} $(CARGO) test -j$(JOBS) --test integration -- --nocapture controller::converging

protections: ## switches each protection of the engine off and sees its test fail
	@$(PHASE) "Protections" tests/protections

e2e: ## tests on a real cluster; started, and stopped again unless it was up
	@$(PHASE) "End-to-end tests: build" $(CARGO) test -j$(JOBS) --test e2e --no-run
	@$(PHASE) "End-to-end tests" deploy/local/with-cluster $(MAKE) --no-print-directory CLUSTER=local install e2e-run

.PHONY: e2e-run
e2e-run:
	@$(CARGO) test -j$(JOBS) --test e2e -- --test-threads=$(JOBS)

outage: ## takes a node, and the API server, from the cluster under a link (AWAY=seconds: how long the API server is away)
	@$(PHASE) "Outages: build" $(CARGO) test -j$(JOBS) --test e2e --no-run
	@$(PHASE) "Outages" deploy/local/with-cluster $(MAKE) --no-print-directory CLUSTER=local install outage-run

.PHONY: outage-run
outage-run:
	@$(CARGO) test -j$(JOBS) --test e2e -- --ignored --test-threads=1 --nocapture

build: ## the binary (PROFILE=dev|release)
	@$(PHASE) "Binary" $(CARGO) build -j$(JOBS) --profile $(PROFILE) --bin link-operator

manifests: ## writes what deploy/base and deploy/overlays take from the chart
	@deploy/render

crds: ## writes crds/, and the chart's copy, from the types in src/api
	@for folder in crds charts/link-operator-crds/files; do $(CARGO) run -j$(JOBS) --quiet -- crds --dir $$folder; done

image: export IMAGE_VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
image: export IMAGE_REVISION = $(shell git rev-parse --verify --quiet HEAD || echo unknown)
image: build sbom-tool ## the image, for CLUSTER
	@$(PHASE) "List of what the binary is made of" deploy/sbom $(BINARY).cdx.json
	@$(PHASE) "Image" deploy/$(CLUSTER)/cluster build-image $(BINARY) $(IMAGE):dev

install: image ## the charts, on the running cluster of CLUSTER
	@$(PHASE) "Charts on the cluster" deploy/install $(CLUSTER) $(BINARY)

tools: ## what tests and demo need beside Rust, Go, npm and gcc
	@$(PHASE) "What the cluster needs" deploy/local/cluster deps
	@command -v shellcheck >/dev/null || $(PHASE) "shellcheck" apt-get install -y -qq --no-install-recommends shellcheck
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || $(PHASE) "rustfmt, clippy" rustup component add rustfmt clippy
	@[[ "$$(cargo-deny --version 2>/dev/null)" == *" $(CARGO_DENY)" ]] || $(INSTALL) cargo-deny@$(CARGO_DENY)
	@$(MAKE) --no-print-directory sbom-tool

.PHONY: sbom-tool
sbom-tool:
	@command -v jq >/dev/null || { echo "the image's list of what it is made of needs jq" >&2; exit 1; }
	@[[ "$$(cargo cyclonedx --version 2>/dev/null)" == *" $(CARGO_CYCLONEDX)" ]] || $(INSTALL) cargo-cyclonedx@$(CARGO_CYCLONEDX)
