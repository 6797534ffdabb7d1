#!/bin/sh
# Runs tests on the emulated card, in the active environment, which has bart-fast and pytest:
#
#     tests/emulated_card/run.sh [PYTEST'S ARGUMENTS]
#
# The core is built with the feature `cuda` against the emulated driver, by a compiler that leaves the kernels
# to it, and takes the place of the wheel bart-fast-cuda.
set -eu

cd "$(dirname "$0")/../.."
card=$PWD/target/emulated-card
package=$card/python/bart_fast_cuda

python tests/emulated_card/build.py "$card"
(
    export CUDA_HOME="$card" CUDA_PATH="$card" CUDA_COMPUTE_CAP=80
    export PATH="$card/bin:$PATH" LIBRARY_PATH="$card/lib"
    # Beside the other builds, which have most of it already.
    cargo build --release --locked --lib --features cuda --target-dir target
    [ -z "${CI-}" ] || cargo clippy --release --locked --lib --features cuda -- -D warnings
)
mkdir -p "$package"
cp cuda/python/bart_fast_cuda/__init__.py "$package"
cp target/release/libbart_fast.so "$package/_core.abi3.so"

export LD_LIBRARY_PATH="$card/lib" PYTHONPATH="$card/python${PYTHONPATH:+:$PYTHONPATH}"
BART_FAST_DEVICE=cpu python -m pytest -q tests/test_devices.py tests/test_emulated_card.py \
    "$@"
BART_FAST_DEVICE=cuda python -m pytest -q --timeout 600 tests/golden/test_precision.py \
    tests/golden/test_keras_tiny.py tests/test_gradient_checkpointing.py \
    tests/test_training_golden.py::test_three_steps "$@"
