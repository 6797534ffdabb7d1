// The passes over single rows: token and position embeddings, and layer norms of sums.
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
    DYNAMIC_SHARED(added);
    float* shared = added + width;
    size_t start = static_cast<size_t>(blockIdx.x) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        added[i] = residual == nullptr ? x[start + i] : x[start + i] + residual[start + i];
    }
    norm_row(added, width, gamma, beta, out + start, shared);
}
KERNEL(add_norm,
       (const float* x, const float* residual, int width, const float* gamma, const float* beta, float* out),
       (x, residual, width, gamma, beta, out))

// out = LN(scale * table[tokens[row]] + positions[places[row]]) * gamma + beta
template <typename T>
__device__ __forceinline__ void embed_norm(
    const T* table, const float* positions, const unsigned* tokens, const unsigned* places, float scale,
    int width, const float* gamma, const float* beta, float* out) {
    DYNAMIC_SHARED(embedded);
    float* shared = embedded + width;
    const T* token = table + static_cast<size_t>(tokens[blockIdx.x]) * width;
    const float* place = positions + static_cast<size_t>(places[blockIdx.x]) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        embedded[i] = widen(token[i]) * scale + place[i];
    }
    norm_row(embedded, width, gamma, beta, out + static_cast<size_t>(blockIdx.x) * width, shared);
}

#define EMBED(type, name)                                                                              \
    extern "C" __global__ void __launch_bounds__(256) embed_norm_##name(                               \
        const type* table, const float* positions, const unsigned* tokens, const unsigned* places,     \
        float scale, int width, const float* gamma, const float* beta, float* out) {                   \
        embed_norm<type>(table, positions, tokens, places, scale, width, gamma, beta, out);            \
    }                                                                                                  \
    KERNEL(embed_norm_##name,                                                                          \
           (const type* table, const float* positions, const unsigned* tokens, const unsigned* places, \
            float scale, int width, const float* gamma, const float* beta, float* out),                \
           (table, positions, tokens, places, scale, width, gamma, beta, out))

EMBED(float, float32)
EMBED(float16, float16)
EMBED(bfloat16, bfloat16)
