// Passes over single numbers.
#include "layers.h"

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
