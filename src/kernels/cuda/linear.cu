// Products of few rows: y = epilogue(x W^T + b), limited by how fast the weights are read.
//
// A warp computes OUTPUTS neighbouring outputs of ROWS rows. Its lanes take eight neighbours of the
// inputs each, side by side, so that a warp reads 512 bytes of a weight's row at a time; what they sum is
// added once at the end. x is small and stays in the first cache.
#include "layers.h"

constexpr int LANE_INPUTS = 8;

template <typename T, int ROWS, int OUTPUTS>
__device__ __forceinline__ void linear_few(
    const float* __restrict__ x, int rows, int inputs, const Layers& layers, int with_gelu) {
    const Layer layer = layers.each[blockIdx.y];
    const T* weight = static_cast<const T*>(layer.weight);
    int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    int first = (blockIdx.x * (blockDim.x / WARP_SIZE) + warp) * OUTPUTS;
    int first_row = blockIdx.z * ROWS;
    float sums[ROWS][OUTPUTS];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) sums[r][o] = 0.0f;
    // Whole warps go together, whether or not they have outputs: they shuffle below.
    for (int i = lane * LANE_INPUTS; i < inputs; i += WARP_SIZE * LANE_INPUTS) {
        float w[OUTPUTS][LANE_INPUTS];
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) {
            int output = min(first + o, layer.outputs - 1);
            load8(weight + static_cast<size_t>(output) * inputs + i, w[o]);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int row = min(first_row + r, rows - 1);
            float inputs_here[LANE_INPUTS];
            load8(x + static_cast<size_t>(row) * inputs + i, inputs_here);
#pragma unroll
            for (int j = 0; j < LANE_INPUTS; j++) {
                float value = as_input<T>(inputs_here[j]);
#pragma unroll
                for (int o = 0; o < OUTPUTS; o++) sums[r][o] = fmaf(value, w[o][j], sums[r][o]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) {
            float sum = warp_sum(sums[r][o]);
            int output = first + o, row = first_row + r;
            if (lane == 0 && output < layer.outputs && row < rows) {
                if (layer.bias != nullptr) sum += layer.bias[output];
                if (with_gelu) sum = gelu(sum);
                layer.out[static_cast<size_t>(row) * layer.outputs + output] = sum;
            }
        }
    }
}

#define LINEAR(type, name, count, outputs)                                                             \
    extern "C" __global__ void __launch_bounds__(128) linear_##name##_##count(                         \
        const float* x, int rows, int inputs,                                                          \
        const __grid_constant__ Layers layers, int with_gelu) {                                        \
        linear_few<type, count, outputs>(x, rows, inputs, layers, with_gelu);                          \
    }

#define LINEAR_OF(type, name) \
    LINEAR(type, name, 1, 1)  \
    LINEAR(type, name, 2, 2)  \
    LINEAR(type, name, 4, 4)  \
    LINEAR(type, name, 8, 4)

LINEAR_OF(float, float32)
LINEAR_OF(float16, float16)
LINEAR_OF(bfloat16, bfloat16)
LINEAR_OF(mixed_float16, mixed_float16)
LINEAR_OF(mixed_bfloat16, mixed_bfloat16)
