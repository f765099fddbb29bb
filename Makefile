# Every target does its own set-up. Required: Rust 1.89 or newer, Python 3.10 or newer, and a C++
# compiler. A sourced ROS 2 (humble, jazzy) is used; without one a private ROS 2 is made in .ros/.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
NODE := $(abspath $(TARGET_DIR)/release/vla_node)
# Another checkpoint for `make demo` and `make sim-eval`, and further arguments of these programs.
DEMO_CHECKPOINT ?=
CHECKPOINT := $(if $(DEMO_CHECKPOINT),--checkpoint "$(DEMO_CHECKPOINT)")
ARGS ?=
# Runs a program in the environment of ROS 2 (and of the simulated robot), in a ROS domain of its own.
IN_ROS := tools/ros/run tools/ros/isolated.py env VLA_NODE="$(NODE)"
IN_SIM := tools/sim/run tools/ros/isolated.py env VLA_NODE="$(NODE)"

.PHONY: help demo operate demo-golden test check sanitize silicon-check bench book ros sim \
	sim-eval provider serving train build node soak clean cargo

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: node provider serving ## a trained policy drives a simulated robot by instructions
	@$(IN_SIM) tools/demo/tabletop $(CHECKPOINT) $(ARGS)

operate: cargo ## the same robot with the operator page: type an instruction in a browser
	@tools/ros/build --release --features ros --bin vla_node --bin openvla
	@$(IN_SIM) tools/demo/operate $(ARGS)

demo-golden: node ## the node alone with random weights: images and instructions in, commands out
	@$(IN_ROS) tools/demo/run

sim-eval: node provider ## success rates in simulation; ARGS="--seeds 20 --on cpu --on sim:n300/bf16"
	@$(IN_SIM) tools/sim_eval/run $(CHECKPOINT) $(ARGS)

# The simulated mesh, when ARGS name one.
provider: cargo
	@case "$(ARGS)" in *sim:*) cargo build --release -p tt-mesh-sim ;; esac

# `openvla serve`, when ARGS name a protocol.
serving: cargo
	@case "$(ARGS)" in *--remote\ openpi*|*--remote\ act*) cargo build --release --bin openvla ;; esac

train: ## train a tabletop policy in target/train, or continue; ARGS="--policy pi05"
	@tools/train_demo/run --out target/train $(ARGS)

sim: ## set up the simulated robot (nothing to do the second time)
	@tools/sim/setup

test: cargo ## every test; the last line is "N passed, N failed"
	@tools/test/run

check: cargo ## format, lints, licences
	@tools/test/check

# `make test` already runs kernels and emulated cores under ASan and UBSan; this adds the Rust around
# them. The compiler's flag is unstable. The provider library uses the sanitizer's symbols of the
# test program, which must therefore export them.
ASAN_EXPORT := -Clink-arg=-Wl,--export-dynamic-symbol
sanitize: cargo ## simulated mesh and C ABI under AddressSanitizer; x86_64 Linux, minutes
	@RUSTC_BOOTSTRAP=1 \
	    RUSTFLAGS="-Zsanitizer=address $(ASAN_EXPORT)=__asan_* $(ASAN_EXPORT)=__sanitizer_*" \
	    cargo test --target x86_64-unknown-linux-gnu --target-dir "$(TARGET_DIR)/sanitize" \
	    -p tt-metal-sys -p tt-metal -p tt-mesh-sim --no-fail-fast

# Without a device: symbols, kernels on wolfpine, and the models' calls in TT-NN's mock mode.
# ARGS=--full: all layers.
silicon-check: cargo ## the provider for silicon against TT-NN's own wheel (54 MB), a minute or two
	@tools/silicon/check $(ARGS)

bench: cargo ## benchmarks
	@cargo bench --workspace
	@tools/ros/run tools/bench/run

book: ## the guide in docs/ as a book: build/book/index.html
	@tools/docs/build

soak: cargo ## ten million random scripts against the control core, in both spaces; about 3 CPU hours
	@OPENVLA_SOAK_CASES=10000000 cargo test --release -p vla-control --test properties --test joint_properties

ros: ## set up ROS 2 (nothing to do the second time)
	@tools/ros/setup

build: cargo ## the command line: target/release/openvla; needs no ROS
	@cargo build --release --bin openvla

# Without the command line's features: no SQLite, plots or HTML.
node: cargo ## the ROS 2 node: target/release/vla_node
	@tools/ros/build --release --no-default-features --features ros --bin vla_node

clean: cargo ## remove everything built, the private ROS 2 too
	@cargo clean
	@rm -rf .ros .sim .gazebo .train .silicon .serve .remote .rerun .ray .docs .precision .lerobot \
	    .libero build install log

cargo:
	@command -v cargo >/dev/null || { \
	    echo "make: cargo not found: install Rust 1.89 or newer (rustup), open a new shell" >&2; \
	    exit 1; }
