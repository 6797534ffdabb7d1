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

// What a warp sums over a row: `term(i)` of each of its places.
template <typename Term>
__device__ __forceinline__ float sum_of_row(int width, Term term) {
    float sum = 0.0f;
    for (int i = threadIdx.x % WARP_SIZE; i < width; i += WARP_SIZE) sum += term(i);
    return warp_sum(sum);
}

// add_norm for training, `affine` [2, width] being gamma and beta: it leaves the sums, if there is a residual, and
// mean and scale of each row too. A warp has a row.
extern "C" __global__ void __launch_bounds__(256) norm_forward(
    const float* x, const float* residual, int rows, int width, const float* affine, float* out, float* sums,
    float* statistics) {
    int row = blockIdx.x * (blockDim.x / WARP_SIZE) + threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    if (row >= rows) return;
    size_t start = static_cast<size_t>(row) * width;
    if (residual != nullptr) {
        for (int i = lane; i < width; i += WARP_SIZE) sums[start + i] = x[start + i] + residual[start + i];
    }
    // A thread reads what it has written itself.
    const float* values = (residual == nullptr ? x : sums) + start;
    float mean = sum_of_row(width, [&](int i) { return values[i]; }) / width;
    float squares = sum_of_row(width, [&](int i) { return (values[i] - mean) * (values[i] - mean); });
    float scale = 1.0f / sqrtf(squares / width + EPSILON);
    for (int i = lane; i < width; i += WARP_SIZE) {
        out[start + i] = fmaf((values[i] - mean) * scale, affine[i], affine[width + i]);
    }
    if (lane == 0) statistics[2 * row] = mean, statistics[2 * row + 1] = scale;
}

// The slopes of the sums, from those of the results.
extern "C" __global__ void __launch_bounds__(256) norm_backward(
    const float* dout, const float* sums, const float* statistics, int rows, int width, const float* gamma,
    float* dsums) {
    int row = blockIdx.x * (blockDim.x / WARP_SIZE) + threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    if (row >= rows) return;
    size_t start = static_cast<size_t>(row) * width;
    float mean = statistics[2 * row], scale = statistics[2 * row + 1];
    auto normed = [&](int i) { return (sums[start + i] - mean) * scale; };
    auto slope = [&](int i) { return dout[start + i] * gamma[i]; };
    float along_one = sum_of_row(width, slope) / width;
    float along_normed = sum_of_row(width, [&](int i) { return slope(i) * normed(i); }) / width;
    for (int i = lane; i < width; i += WARP_SIZE) {
        dsums[start + i] = scale * (slope(i) - along_one - normed(i) * along_normed);
    }
}

// Sums over `part` rows of [rows, width], in parts [rows / part, 2, width]: of dout, and of dout times the normed
// values. Without statistics of dout alone, [rows / part, width]. A block has 32 columns of a part.
extern "C" __global__ void __launch_bounds__(256) sum_columns(
    const float* dout, const float* sums, const float* statistics, int rows, int width, int part, float* parts) {
    __shared__ float shared[2][256];
    int column = blockIdx.x * WARP_SIZE + threadIdx.x % WARP_SIZE, warp = threadIdx.x / WARP_SIZE;
    int warps = blockDim.x / WARP_SIZE, first = blockIdx.y * part, end = min(first + part, rows);
    float plain = 0.0f, normed = 0.0f;
    for (int row = first + warp; row < end && column < width; row += warps) {
        size_t place = static_cast<size_t>(row) * width + column;
        plain += dout[place];
        if (statistics != nullptr) {
            normed += dout[place] * (sums[place] - statistics[2 * row]) * statistics[2 * row + 1];
        }
    }
    shared[0][threadIdx.x] = plain, shared[1][threadIdx.x] = normed;
    __syncthreads();
    if (warp > 0 || column >= width) return;
    for (int i = 1; i < warps; i++) {
        plain += shared[0][i * WARP_SIZE + threadIdx.x], normed += shared[1][i * WARP_SIZE + threadIdx.x];
    }
    size_t size = statistics == nullptr ? width : 2 * width;
    float* to = parts + blockIdx.y * size + column;
    if (statistics == nullptr) {
        *to = plain;
    } else {
        // As gamma and beta lie.
        to[0] = normed, to[width] = plain;
    }
}

// The sum of `count` arrays of `size` floats that lie one behind the other.
extern "C" __global__ void __launch_bounds__(256) sum_parts(const float* parts, int count, int size, float* out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) return;
    float sum = 0.0f;
    for (int part = 0; part < count; part++) sum += parts[static_cast<size_t>(part) * size + i];
    out[i] = sum;
}
