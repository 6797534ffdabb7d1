// Passes over single numbers.
#include "numbers.h"

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

__device__ __forceinline__ float gelu_of(float x) {
    return x * (0.5f + 0.5f * erff(x * 0.70710678118654752f));
}

// y[row][i] = epilogue(y[row][i] + bias[i]); a block has one row.
extern "C" __global__ void __launch_bounds__(256) add_bias(
    float* y, const float* bias, int outputs, int with_gelu) {
    float* row = y + static_cast<size_t>(blockIdx.x) * outputs;
    for (int i = threadIdx.x; i < outputs; i += blockDim.x) {
        float value = row[i];
        if (bias != nullptr) value += bias[i];
        row[i] = with_gelu ? gelu_of(value) : value;
    }
}
