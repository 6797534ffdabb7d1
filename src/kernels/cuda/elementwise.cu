// Passes over single numbers, for training: biases, GELU and dropout.
#include "dropout.h"
#include "layers.h"

// out = x, of which dropout leaves a part.
extern "C" __global__ void __launch_bounds__(256) dropout(
    const float* x, float* out, unsigned long long count, Draw draw) {
    unsigned long long block = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (4 * block >= count) return;
    float factors[4];
    factors_of(draw, block, factors);
    for (int i = 0; i < 4 && 4 * block + i < count; i++) out[4 * block + i] = x[4 * block + i] * factors[i];
}

// out = x + bias: a row of `width` a block.
extern "C" __global__ void __launch_bounds__(256) add_row(const float* x, const float* bias, float* out, int width) {
    size_t start = static_cast<size_t>(blockIdx.x) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) out[start + i] = x[start + i] + bias[i];
}

// out = GELU(x)
extern "C" __global__ void __launch_bounds__(256) gelu_forward(
    const float* x, float* out, unsigned long long count) {
    unsigned long long i = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count) out[i] = gelu(x[i]);
}

// dx = dout GELU'(x)
extern "C" __global__ void __launch_bounds__(256) gelu_backward(
    const float* x, const float* dout, float* dx, unsigned long long count) {
    unsigned long long i = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float below = 0.5f + 0.5f * erff(x[i] * 0.70710678118654752f);
    float density = 0.39894228040143268f * expf(-0.5f * x[i] * x[i]);
    dx[i] = dout[i] * fmaf(x[i], density, below);
}
