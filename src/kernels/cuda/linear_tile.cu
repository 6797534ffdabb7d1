// Products of a few dozen rows, by tensor cores: too many rows for `linear.cu`, which multiplies each by itself, and
// so few that launches beside the product would take longer than it.
//
// A block has 64 rows and 16 outputs. Its warps share the inputs, 32 at a time, and add up what they have at the
// end. A lane reads eight neighbours of a row at once, of inputs and weights alike: which inputs a product's slots
// stand for does not matter, if both sides agree.
#include "layers.h"
#include "tensor_cores.h"

constexpr int TILE_ROWS = 64;
constexpr int TILE_OUTPUTS = 16;
constexpr int TILE_WARPS = 8;
constexpr int SLAB = 32;

// The sums of a warp: of 16 rows by 16 outputs, four times.
using TileSums = float[TILE_ROWS / 16][TILE_OUTPUTS / 8][4];

// Adds the products of a slab: `x` is this lane's part of the first row, of `count` that are there, and `weights` that
// of the output of lane / 4, and of the one 8 further.
template <typename T>
__device__ __forceinline__ void multiply_slab(
    TileSums& sums, const float* x, int count, int inputs, const uint4 (&weights)[TILE_OUTPUTS / 8]) {
    int group = threadIdx.x % WARP_SIZE / 4;
#pragma unroll
    for (int m = 0; m < TILE_ROWS / 16; m++) {
        if (m * 16 >= count) continue;
        float upper[8], lower[8];
        load8(x + static_cast<size_t>(min(m * 16 + group, count - 1)) * inputs, upper);
        load8(x + static_cast<size_t>(min(m * 16 + group + 8, count - 1)) * inputs, lower);
#pragma unroll
        for (int half = 0; half < 8; half += 4) {
            unsigned a[4] = {
                pair<T>(upper[half], upper[half + 1]), pair<T>(lower[half], lower[half + 1]),
                pair<T>(upper[half + 2], upper[half + 3]), pair<T>(lower[half + 2], lower[half + 3])};
#pragma unroll
            for (int n = 0; n < TILE_OUTPUTS / 8; n++) {
                const uint4& w = weights[n];
                if (half == 0) multiply<T>(sums[m][n], a, {w.x, w.y});
                if (half != 0) multiply<T>(sums[m][n], a, {w.z, w.w});
            }
        }
    }
}

template <typename T>
__device__ __forceinline__ void linear_tile(
    const float* __restrict__ x, int rows, int inputs, const Layers& layers, int with_gelu) {
    // [warps, rows, outputs]
    DYNAMIC_SHARED(parts);
    const Layer layer = layers.each[blockIdx.y];
    int first = blockIdx.x * TILE_OUTPUTS, first_row = blockIdx.z * TILE_ROWS;
    // The layers of a launch may have unlike numbers of outputs.
    if (first >= layer.outputs) return;
    int count = min(TILE_ROWS, rows - first_row);
    int warp = threadIdx.x / WARP_SIZE, group = threadIdx.x % WARP_SIZE / 4, within = threadIdx.x % 4;
    const float* here = x + static_cast<size_t>(first_row) * inputs + within * 8;
    TileSums sums = {};
    for (int i = warp * SLAB; i < inputs; i += TILE_WARPS * SLAB) {
        uint4 weights[TILE_OUTPUTS / 8];
#pragma unroll
        for (int n = 0; n < TILE_OUTPUTS / 8; n++) {
            int output = min(first + n * 8 + group, layer.outputs - 1);
            const T* row = static_cast<const T*>(layer.weight) + static_cast<size_t>(output) * inputs;
            weights[n] = __ldg(reinterpret_cast<const uint4*>(row + i + within * 8));
        }
        multiply_slab<T>(sums, here + i, count, inputs, weights);
    }
    float* mine = parts + warp * TILE_ROWS * TILE_OUTPUTS;
#pragma unroll
    for (int m = 0; m < TILE_ROWS / 16; m++)
#pragma unroll
        for (int n = 0; n < TILE_OUTPUTS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = m * 16 + group + i / 2 * 8, output = n * 8 + within * 2 + i % 2;
                mine[row * TILE_OUTPUTS + output] = sums[m][n][i];
            }
    __syncthreads();
    for (int i = threadIdx.x; i < count * TILE_OUTPUTS; i += blockDim.x) {
        int row = first_row + i / TILE_OUTPUTS, output = first + i % TILE_OUTPUTS;
        if (output >= layer.outputs) continue;
        float sum = layer.bias == nullptr ? 0.0f : layer.bias[output];
#pragma unroll
        for (int other = 0; other < TILE_WARPS; other++) sum += parts[other * TILE_ROWS * TILE_OUTPUTS + i];
        layer.out[static_cast<size_t>(row) * layer.outputs + output] = with_gelu ? gelu(sum) : sum;
    }
}

#define LINEAR_TILE(type, name)                                                                        \
    extern "C" __global__ void __launch_bounds__(TILE_WARPS * WARP_SIZE) linear_tile_##name(           \
        const float* x, int rows, int inputs,                                                          \
        const __grid_constant__ Layers layers, int with_gelu) {                                        \
        linear_tile<type>(x, rows, inputs, layers, with_gelu);                                         \
    }

LINEAR_TILE(float16, float16)
LINEAR_TILE(bfloat16, bfloat16)
