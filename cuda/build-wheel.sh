#!/bin/sh
# Builds the wheel bart-fast-cuda from nothing but Rust, a C compiler and PyPI, into target/cuda-wheel.
# NVIDIA's compiler and libraries come from PyPI, into an environment under target/.
#
# CUDA_COMPUTE_CAP says for which cards candle's own kernels are compiled: 80 (A100) and all later ones, by
# default.
set -eu

cd "$(dirname "$0")/.."
tools=target/cuda-tools
wheels=target/cuda-wheel

if [ ! -x $tools/bin/maturin ]; then
    python3 -m venv $tools
    # cudarc knows version 13.0.
    $tools/bin/pip install --quiet "maturin>=1.9.4,<2" \
        "nvidia-cuda-nvcc==13.0.*" "nvidia-cuda-crt==13.0.*" "nvidia-nvvm==13.0.*" \
        "nvidia-cuda-cccl==13.0.*" "nvidia-cuda-runtime==13.0.*" "nvidia-cuda-nvrtc==13.0.*" \
        "nvidia-cublas==13.0.*" "nvidia-curand==10.4.0.*"
fi
home=$($tools/bin/python -c "import nvidia.cu13 as c; print(list(c.__path__)[0])")

# Linkers want names without versions, and a library of the driver's, which this machine need not have.
links=$PWD/$tools/links
mkdir -p "$links"
for name in cublas cublasLt cudart curand nvrtc; do
    ln -sf "$(ls "$home"/lib/lib$name.so.* | head -n 1)" "$links/lib$name.so"
done
cc -shared -o "$links/libcuda.so" -xc /dev/null

export CUDA_HOME="$home" CUDA_PATH="$home" PATH="$home/bin:$PATH"
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}"
export LIBRARY_PATH="$links:$home/lib${LIBRARY_PATH:+:$LIBRARY_PATH}"
# maturin reads the project file of the folder that it runs in. The libraries of NVIDIA stay where PyPI puts them.
cd cuda
../$tools/bin/maturin build --release --locked --auditwheel skip --target-dir ../target/cuda --out ../$wheels
ls -l ../$wheels
