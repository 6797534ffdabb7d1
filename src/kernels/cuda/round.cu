// Passes over single numbers.
#include "layers.h"
#include "tensor_cores.h"

// y[i] = x[i], narrowed.
template <typename T>
__device__ __forceinline__ void narrow_all(const float* x, T* y, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = narrow<T>(x[i]);
}

#define NARROW(type, name)                                                                             \
    extern "C" __global__ void __launch_bounds__(256) narrow_##name(const float* x, type* y, int count) { \
        narrow_all<type>(x, y, count);                                                                 \
    }

NARROW(float16, float16)
NARROW(bfloat16, bfloat16)

// y[i] = x[i], rounded to a type of 16 bits.
template <typename T>
__device__ __forceinline__ void round_all(const float* x, float* y, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = widen(narrow<T>(x[i]));
}

#define ROUND(type, name)                                                                              \
    extern "C" __global__ void __launch_bounds__(256) round_##name(const float* x, float* y, int count) { \
        round_all<type>(x, y, count);                                                                  \
    }

ROUND(float16, float16)
ROUND(bfloat16, bfloat16)

// y[i] = x[i], of a type of fewer bits.
extern "C" __global__ void __launch_bounds__(256) widen_bfloat16(const bfloat16* x, float* y, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = widen(x[i]);
}

// y[row][i] = epilogue(y[row][i] + bias[i]); a block has one row.
extern "C" __global__ void __launch_bounds__(256) add_bias(
    float* y, const float* bias, int outputs, int with_gelu) {
    float* row = y + static_cast<size_t>(blockIdx.x) * outputs;
    for (int i = threadIdx.x; i < outputs; i += blockDim.x) {
        float value = row[i];
        if (bias != nullptr) value += bias[i];
        row[i] = with_gelu ? gelu(value) : value;
    }
}

// GELU to 3e-7, for results that have fewer bits: erf by formula 7.1.26 of Abramowitz and Stegun (1964).
__device__ __forceinline__ float gelu_quickly(float x) {
    float z = fabsf(x) * 0.70710678118654752f;
    float t = reciprocal(fmaf(0.3275911f, z, 1.0f));
    float sum = fmaf(t, 1.061405429f, -1.453152027f);
    sum = fmaf(t, sum, 1.421413741f);
    sum = fmaf(t, sum, -0.284496736f);
    sum = fmaf(t, sum, 0.254829592f);
    // 1 - erf(z), halved.
    float half = 0.5f * t * sum * power_of_2(-1.4426950408889634f * z * z);
    return x * (x < 0.0f ? half : 1.0f - half);
}

// The same for many rows of bfloat16, eight neighbours a thread: `count` eights, `outputs` a multiple of 8.
extern "C" __global__ void __launch_bounds__(256) add_bias_bfloat16(
    bfloat16* y, const float* bias, int outputs, int count, int with_gelu) {
    int place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= count) return;
    bfloat16* here = y + static_cast<size_t>(place) * 8;
    float values[8], more[8] = {};
    load8(here, values);
    if (bias != nullptr) load8(bias + place % (outputs / 8) * 8, more);
#pragma unroll
    for (int n = 0; n < 8; n++) {
        float value = values[n] + more[n];
        values[n] = with_gelu ? gelu_quickly(value) : value;
    }
    store8(here, values);
}
