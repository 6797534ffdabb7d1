// Products of few rows with weights in int8, by Keras' scheme (`src/kernels/int8.rs` has the twin).
//
// A weight is bytes q + 128 and a scale for each output; rows of inputs are quantised alike. Sums of whole
// numbers are exact, so that their order does not matter.
#include "layers.h"

// Inputs that a lane reads at a time: 16 bytes.
constexpr int LANE_BYTES = 16;
constexpr float LARGEST = 127.0f;
// Keeps the scale of a row of zeros finite.
constexpr float SMALLEST = 1e-7f;
// What a weight's byte is more than its number, in each byte of a word: flipped, it makes the number.
constexpr unsigned OFFSETS = 0x80808080u;

// A row a block: x [rows, width] in whole numbers, and their scales. If an input is not finite, the scale
// makes NaN of every result.
extern "C" __global__ void __launch_bounds__(256) quantize_rows(
    const float* x, int width, signed char* values, float* scales) {
    __shared__ float shared[WARP_SIZE];
    const float* row = x + static_cast<size_t>(blockIdx.x) * width;
    float largest = 0.0f, poison = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        largest = fmaxf(largest, fabsf(row[i]));
        poison += row[i] * 0.0f;
    }
    largest = block_max(largest, shared);
    poison = block_sum(poison, shared);
    float scale = LARGEST / (largest + SMALLEST) + poison;
    signed char* to = values + static_cast<size_t>(blockIdx.x) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        to[i] = static_cast<signed char>(__float2int_rn(row[i] * scale));
    }
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
}

template <int ROWS, int OUTPUTS>
__device__ __forceinline__ void linear_few_int8(
    const signed char* __restrict__ x, const float* x_scales, int rows, int inputs, const Layers& layers,
    int with_gelu) {
    const Layer layer = layers.each[blockIdx.y];
    const unsigned char* weight = static_cast<const unsigned char*>(layer.weight);
    int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    int first = (blockIdx.x * (blockDim.x / WARP_SIZE) + warp) * OUTPUTS;
    int first_row = blockIdx.z * ROWS;
    int sums[ROWS][OUTPUTS];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) sums[r][o] = 0;
    for (int i = lane * LANE_BYTES; i < inputs; i += WARP_SIZE * LANE_BYTES) {
        uint4 w[OUTPUTS];
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) {
            int output = min(first + o, layer.outputs - 1);
            w[o] = __ldg(reinterpret_cast<const uint4*>(weight + static_cast<size_t>(output) * inputs + i));
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int row = min(first_row + r, rows - 1);
            uint4 q = __ldg(reinterpret_cast<const uint4*>(x + static_cast<size_t>(row) * inputs + i));
#pragma unroll
            for (int o = 0; o < OUTPUTS; o++) {
                int sum = sums[r][o];
                sum = __dp4a(static_cast<int>(w[o].x ^ OFFSETS), static_cast<int>(q.x), sum);
                sum = __dp4a(static_cast<int>(w[o].y ^ OFFSETS), static_cast<int>(q.y), sum);
                sum = __dp4a(static_cast<int>(w[o].z ^ OFFSETS), static_cast<int>(q.z), sum);
                sums[r][o] = __dp4a(static_cast<int>(w[o].w ^ OFFSETS), static_cast<int>(q.w), sum);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) {
            int sum = warp_sum(sums[r][o]);
            int output = first + o, row = first_row + r;
            if (lane == 0 && output < layer.outputs && row < rows) {
                float y = static_cast<float>(sum) / (x_scales[row] * layer.scales[output]);
                if (layer.bias != nullptr) y += layer.bias[output];
                if (with_gelu) y = gelu(y);
                layer.out[static_cast<size_t>(row) * layer.outputs + output] = y;
            }
        }
    }
}

#define LINEAR_INT8(count, outputs)                                                                    \
    extern "C" __global__ void __launch_bounds__(128) linear_int8_##count(                             \
        const signed char* x, const float* x_scales, int rows, int inputs,                             \
        const __grid_constant__ Layers layers, int with_gelu) {                                        \
        linear_few_int8<count, outputs>(x, x_scales, rows, inputs, layers, with_gelu);                 \
    }

LINEAR_INT8(1, 1)
LINEAR_INT8(2, 2)
LINEAR_INT8(4, 4)
LINEAR_INT8(8, 4)

// out = scale * table[tokens[row]] / scales[tokens[row]] + positions[places[row]]
extern "C" __global__ void __launch_bounds__(256) embed_int8(
    const unsigned char* table, const float* scales, const float* positions, const unsigned* tokens,
    const unsigned* places, float scale, int width, float* out) {
    const unsigned char* token = table + static_cast<size_t>(tokens[blockIdx.x]) * width;
    const float* place = positions + static_cast<size_t>(places[blockIdx.x]) * width;
    float divisor = scales[tokens[blockIdx.x]];
    float* row = out + static_cast<size_t>(blockIdx.x) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        row[i] = static_cast<float>(token[i] - 128) / divisor * scale + place[i];
    }
}
