# The commands people type. Each is a script or a cargo command; `make` alone lists them.

CARGO ?= cargo
export CARGO

.DEFAULT_GOAL := help
.PHONY: help demo test check sim bench proof fuzz sbom arm test-arm deb deps

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' Makefile | expand -t 14

demo: deps ## a Premium camera uploads; you cancel in the browser and see it switch (ONCE=1: without a person)
	@scripts/demo.sh

test: ## everything CI checks, with the seconds of each part
	@scripts/test.sh

check: deps ## format and lint, before every commit
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

sim: deps ## random histories against the oracle (SEED=… plays one aloud; HISTORIES=… so many, FROM=… on)
	@SEED='$(SEED)' FROM='$(FROM)' HISTORIES='$(HISTORIES)' scripts/sim.sh

bench: deps ## measures the cut beside two rivals, the footprint, and the cut on an emulated camera; writes target/bench/*.json
	@scripts/bench.sh
	@scripts/bench-camera.sh

arm: deps ## the firmware for armv7 and aarch64, with its debug information beside it, within its budgets of flash
	@scripts/arm.sh

test-arm: deps ## the firmware's own tests for armv7 and aarch64, under emulation
	@scripts/test-arm.sh

deb: deps ## packages for amd64, armhf and arm64, in target/deb
	@scripts/deb.sh

proof: deps ## the long runs
	@scripts/proof.sh

fuzz: deps ## fuzzes what strangers can send, ten minutes a target (SECONDS=600 TARGETS="state grant")
	@scripts/fuzz.sh $(or $(SECONDS),600) $(TARGETS)

sbom: ## writes the firmware's bill of materials (CycloneDX) to target/sbom
	@scripts/sbom.sh

deps: ## installs the Debian packages that are missing
	@scripts/deps.sh
