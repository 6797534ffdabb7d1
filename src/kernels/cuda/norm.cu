// The passes over single rows: layer norms of sums, and token and position embeddings.
// A block has one row.
#include "numbers.h"

constexpr float EPSILON = 1e-5f;

// LN(values) * gamma + beta of a row whose values the threads hold: each `width / blockDim.x` of them, in
// `row`, which lies in shared memory.
__device__ __forceinline__ void norm_row(
    float* row, int width, const float* gamma, const float* beta, float* out, float* shared) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) sum += row[i];
    float mean = block_sum(sum, shared) / width;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float centred = row[i] - mean;
        squares = fmaf(centred, centred, squares);
    }
    float scale = 1.0f / sqrtf(block_sum(squares, shared) / width + EPSILON);
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        out[i] = fmaf((row[i] - mean) * scale, gamma[i], beta[i]);
    }
}

// out = LN(x + residual) * gamma + beta; x, residual (or none) and out are [rows, width].
extern "C" __global__ void __launch_bounds__(256) add_norm(
    const float* x, const float* residual, int width, const float* gamma, const float* beta, float* out) {
    DYNAMIC_SHARED(row);
    float* shared = row + width;
    size_t start = static_cast<size_t>(blockIdx.x) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        row[i] = residual == nullptr ? x[start + i] : x[start + i] + residual[start + i];
    }
    norm_row(row, width, gamma, beta, out + start, shared);
}

// out = scale * table[tokens[row]] + positions[places[row]]
template <typename T>
__device__ __forceinline__ void embed(
    const T* table, const float* positions, const unsigned* tokens, const unsigned* places, float scale,
    int width, float* out) {
    const T* token = table + static_cast<size_t>(tokens[blockIdx.x]) * width;
    const float* place = positions + static_cast<size_t>(places[blockIdx.x]) * width;
    float* row = out + static_cast<size_t>(blockIdx.x) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) row[i] = widen(token[i]) * scale + place[i];
}

#define EMBED(type, name)                                                                              \
    extern "C" __global__ void __launch_bounds__(256) embed_##name(                                    \
        const type* table, const float* positions, const unsigned* tokens, const unsigned* places,     \
        float scale, int width, float* out) {                                                          \
        embed<type>(table, positions, tokens, places, scale, width, out);                              \
    }

EMBED(float, float32)
EMBED(float16, float16)
EMBED(bfloat16, bfloat16)
