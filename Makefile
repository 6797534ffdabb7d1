# `make` does what a change must pass; `make help` lists the rest. Python tools come from the active
# virtual environment: `pip install maturin pytest pytest-timeout hypothesis ruff`.

.DEFAULT_GOAL := all

.PHONY: all
all: format build-dev lint test ## format, build, lint and test

.PHONY: format
format: ## rewrite Rust and Python sources in the house's format
	cargo fmt
	ruff format .
	ruff check --fix-only --quiet .

.PHONY: build-dev
build-dev: ## build the extension, optimised, and install it into the active environment
	maturin develop --release

.PHONY: build
build: ## build the wheel, into target/wheels
	maturin build --release

.PHONY: cuda-wheel
cuda-wheel: ## build the wheel bart-fast-cuda, into target/cuda-wheel; see docs/devices.md
	cuda/build-wheel.sh

.PHONY: test-emulated-card
test-emulated-card: ## the code for NVIDIA's cards, tested on the CPU; see tests/emulated_card
	tests/emulated_card/run.sh

.PHONY: lint
lint: ## formatting and lints, warnings as errors
	cargo fmt --check
	cargo clippy --release --all-targets -- -D warnings
	cargo clippy --release --all-targets --no-default-features -- -D warnings
	ruff format --check .
	ruff check .

.PHONY: test
test: ## Rust tests, then Python tests against what build-dev installed
	cargo test --release
	pytest

.PHONY: test-rust-only
test-rust-only: ## Rust tests of the crate without its Python half
	cargo test --release --no-default-features

.PHONY: bench
bench: ## kernels, then the whole model, against what the machine can do
	cargo bench --bench kernels
	python benches/compare.py

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | column -t -s '|'
