// The passes over single rows: layer norms of sums, and token and position embeddings.
// A block has one row, but where there are many.
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

// The same of many rows, for the speed of memory: a warp has one, of at most 1024 numbers, a multiple of 8. The
// results are of the type of x.
template <typename X, typename R>
__device__ __forceinline__ void add_norm_many(
    const X* x, const R* residual, int rows, int width, const float* gamma, const float* beta, X* out) {
    constexpr int EIGHTS = 4;
    int row = blockIdx.x * (blockDim.x / WARP_SIZE) + threadIdx.x / WARP_SIZE;
    if (row >= rows) return;
    size_t start = static_cast<size_t>(row) * width;
    float values[EIGHTS][8], other[8], sum = 0.0f, squares = 0.0f;
    // Calls `work` for each of this lane's eights that are there.
    auto visit = [&](auto work) {
#pragma unroll
        for (int e = 0; e < EIGHTS; e++) {
            int i = (e * WARP_SIZE + threadIdx.x % WARP_SIZE) * 8;
            if (i < width) work(values[e], i);
        }
    };
    visit([&](float (&eight)[8], int i) {
        load8(x + start + i, eight);
        if (residual != nullptr) load8(residual + start + i, other);
#pragma unroll
        for (int n = 0; n < 8; n++) sum += eight[n] += residual == nullptr ? 0.0f : other[n];
    });
    float mean = warp_sum(sum) / width;
    visit([&](float (&eight)[8], int) {
#pragma unroll
        for (int n = 0; n < 8; n++) eight[n] -= mean, squares = fmaf(eight[n], eight[n], squares);
    });
    float scale = 1.0f / sqrtf(warp_sum(squares) / width + EPSILON);
    visit([&](float (&eight)[8], int i) {
        float gain[8];
        load8(gamma + i, gain), load8(beta + i, other);
#pragma unroll
        for (int n = 0; n < 8; n++) eight[n] = fmaf(eight[n] * scale, gain[n], other[n]);
        store8(out + start + i, eight);
    });
}

#define ADD_NORM_MANY(x_type, x_name, r_type, r_name)                                                  \
    extern "C" __global__ void __launch_bounds__(256) add_norm_many_##x_name##_##r_name(               \
        const x_type* x, const r_type* residual, int rows, int width, const float* gamma,              \
        const float* beta, x_type* out) {                                                              \
        add_norm_many<x_type, r_type>(x, residual, rows, width, gamma, beta, out);                     \
    }

ADD_NORM_MANY(float, float32, float, float32)
ADD_NORM_MANY(bfloat16, bfloat16, float, float32)
ADD_NORM_MANY(bfloat16, bfloat16, bfloat16, bfloat16)

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
