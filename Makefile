# The commands people type. Each installs the Debian packages that it needs (scripts/deps.sh), then runs a script or
# cargo. `make` alone lists them.

CARGO ?= cargo
export CARGO

.DEFAULT_GOAL := help
.PHONY: help demo test check sim bench bench-fleet proof test-fresh fuzz sbom arm test-arm firmware deb deps

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' Makefile | expand -t 17

demo: ## a Premium camera uploads; cancel in the browser and watch it switch (ONCE=1: plays by itself)
	@scripts/deps.sh demo
	@scripts/demo.sh

test: ## everything that CI checks, with the seconds each part takes
	@scripts/test.sh

check: ## format and lint; run it before every commit
	@scripts/deps.sh check
	@scripts/citations.py
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

sim: ## random histories against the oracle (SEED=n prints one; HISTORIES=n runs n of them, from seed FROM)
	@scripts/deps.sh sim
	@SEED='$(SEED)' FROM='$(FROM)' HISTORIES='$(HISTORIES)' scripts/sim.sh

bench: ## measures switch time, instructions and footprint, here and on an emulated camera; writes docs/benchmarks.md
	@scripts/deps.sh bench
	@scripts/instructions.sh
	@scripts/bench.sh
	@scripts/bench-camera.sh
	@scripts/bench-bare.sh
	@target/$(patsubst dev,debug,$(or $(PROFILE),bench-build))/bench-report

bench-fleet: ## measures changes of a whole fleet of light cameras on Mosquitto and NATS (SIZES=100,1000 NATS_SIZES=100)
	@scripts/deps.sh bench-fleet
	@SIZES='$(SIZES)' NATS_SIZES='$(NATS_SIZES)' scripts/bench-fleet.sh

arm: ## builds the firmware for ARM and MIPS, with debug files, and checks its size
	@scripts/deps.sh arm
	@scripts/arm.sh

test-arm: ## runs the firmware's unit tests for every target of `make arm` under emulation
	@scripts/deps.sh test-arm
	@scripts/test-arm.sh

firmware: ## packs the static program for firmware images into target/firmware (TARGET=armv7-unknown-linux-musleabihf)
	@scripts/deps.sh firmware
	@scripts/firmware.sh $(TARGET)

deb: ## builds Debian packages for amd64, armhf and arm64 in target/deb
	@scripts/deps.sh deb
	@scripts/deb.sh

proof: ## the long runs: ten million histories, mutants, fuzzing, every fault, ARM
	@scripts/deps.sh proof
	@scripts/proof.sh

test-fresh: ## `make demo` and `make test` on a fresh Debian 12, and again offline (COMMANDS="demo")
	@scripts/deps.sh proof
	@scripts/test-fresh.sh $(COMMANDS)

fuzz: ## fuzzes every parser of foreign input, ten minutes each (SECONDS=600 TARGETS="state grant")
	@scripts/deps.sh fuzz
	@scripts/fuzz.sh $(or $(SECONDS),600) $(TARGETS)

sbom: ## writes the firmware's software bill of materials (CycloneDX) to target/sbom
	@scripts/deps.sh sbom
	@scripts/sbom.sh

deps: ## installs the Debian packages that `make test` needs
	@scripts/deps.sh test
