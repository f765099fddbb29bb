# Every target does its own set-up. Assumed: Rust >= 1.89, Python >= 3.10 and a C++ compiler.
# A ROS 2 (humble, jazzy) that is sourced is used; without one a private ROS 2 is made in .ros/ (tools/ros/setup).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
NODE := $(abspath $(TARGET_DIR)/release/vla_node)
# Checkpoint of `make demo` and `make sim-eval`, and what else is said to them.
DEMO_CHECKPOINT ?= models/tabletop
ARGS ?=

.PHONY: help demo demo-golden test check sanitize bench ros sim sim-eval provider train build node soak clean cargo

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: node provider ## a trained policy drives a simulated robot: instructions at random, live, about 40 s
	@if [ -f "$(DEMO_CHECKPOINT)/config.json" ]; then \
	    tools/sim/run tools/ros/isolated.py env VLA_NODE="$(NODE)" tools/demo/tabletop --checkpoint "$(DEMO_CHECKPOINT)" $(ARGS); \
	else \
	    echo "no trained policy at $(DEMO_CHECKPOINT): showing the node alone (make demo-golden)"; \
	    $(MAKE) --no-print-directory demo-golden; \
	fi

demo-golden: node ## the node alone on random weights: camera images and an instruction in, commands out, 20 s
	@tools/ros/run tools/ros/isolated.py env VLA_NODE="$(NODE)" tools/demo/run

sim-eval: node provider ## success rates on the simulated robot; ARGS="--seeds 20 --on cpu --on sim:n300/bf16"
	@tools/sim/run tools/ros/isolated.py env VLA_NODE="$(NODE)" tools/sim_eval/run --checkpoint "$(DEMO_CHECKPOINT)" $(ARGS)

# The simulated mesh, when ARGS name one.
provider: cargo
	@case "$(ARGS)" in *sim:*) cargo build --release -p tt-mesh-sim ;; esac

train: ## train the tabletop policy anew in target/train; goes on where it was stopped, about an hour on two cores
	@tools/train_demo/run --out target/train $(ARGS)

sim: ## set up the simulated robot (a second time does nothing)
	@tools/sim/setup

test: cargo ## every test; closes with "N passed, N failed"
	@tools/test/run

check: cargo ## format, lints, licences
	@tools/test/check

# Kernels and emulated cores run under ASan and UBSan in `make test` already; this is the Rust around them. The compiler's own flag for it is
# unstable; the provider that a test loads finds the sanitizer in the test, which must therefore export it.
sanitize: cargo ## simulated mesh, safe floor and C ABI under AddressSanitizer; x86_64 Linux, minutes
	@RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Clink-arg=-Wl,--export-dynamic-symbol=__asan_*,--export-dynamic-symbol=__sanitizer_*" cargo test --target x86_64-unknown-linux-gnu --target-dir "$(TARGET_DIR)/sanitize" \
		-p tt-metal-sys -p tt-metal -p tt-mesh-sim --no-fail-fast

bench: cargo ## benchmarks
	@cargo bench --workspace
	@if [ -x tools/bench/run ]; then tools/ros/run tools/bench/run; fi

soak: cargo ## ten million random scripts against the control core; about ten minutes
	@OPENVLA_SOAK_CASES=10000000 cargo test --release --test control_properties

ros: ## set up ROS 2 (a second time does nothing)
	@tools/ros/setup

build: cargo ## the command line: target/release/openvla; needs no ROS
	@cargo build --release --bin openvla

node: cargo ## the ROS 2 node: target/release/vla_node
	@tools/ros/run cargo build --release --features ros --bin vla_node

clean: cargo ## remove everything built, the private ROS 2 too
	@cargo clean
	@rm -rf .ros .sim .train build install log

cargo:
	@command -v cargo >/dev/null || { echo "make: cargo not found: install Rust 1.89 or newer (rustup) and open a new shell" >&2; exit 1; }
