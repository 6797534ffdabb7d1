// What the kernels of attention over whole sequences share. The scores are never in memory (Dao 2023,
// arXiv:2307.08691, FlashAttention-2): a block has some queries of one head and goes over the keys of their
// sequence, some at a time. Of each query it keeps the largest score so far, the sum of the exponentials below
// that, and the sum of the values that these weigh; where a larger score is found, both sums shrink.
#pragma once

#include "tensor_cores.h"

constexpr int ATTENTION_THREADS = 128;

// Some neighbouring queries of a sequence, at most 64, and the keys of that sequence. Of these the first query
// sees those up to `last_key`, the next one more each.
struct QueryTile {
    int first_query, queries;
    int first_key, keys;
    int last_key;

    // How many keys, from the first, one of the first `count` queries sees.
    __device__ __forceinline__ int seen_by(int count) const {
        return count > 0 ? max(0, min(keys, last_key + min(count, queries))) : 0;
    }

    // At most `count` of its queries, from one of them on.
    __device__ __forceinline__ QueryTile from(int query, int count) const {
        int left = max(0, min(count, queries - query));
        return {first_query + query, left, first_key, keys, last_key + query};
    }
};

// What a launch computes: rows [rows, heads * width] of sequences laid end to end. `width` is a multiple of 8.
template <typename R>
struct Sequences {
    const R *q, *k, *v;
    R* out;
    const QueryTile* tiles;
    const unsigned* visible;  // of each key row a bit, and words for 64 more; none: all may be seen
    int heads, width;
    float scale;
    int mean;  // a query that sees no key gets the mean of its sequence's values, else zeros

    __device__ __forceinline__ size_t stride() const { return static_cast<size_t>(heads) * width; }

    // Where this block's head begins in a row.
    template <typename Pointer>
    __device__ __forceinline__ Pointer at(Pointer rows, int row) const {
        return rows + row * stride() + blockIdx.y * width;
    }
};

// The first `count` of 64 bits.
__device__ __forceinline__ uint64_t first_bits(int count) {
    return count <= 0 ? 0 : count >= 64 ? ~0ull : (1ull << count) - 1;
}

// Which of the 64 keys from `start` on may be seen at all, a bit each.
__device__ __forceinline__ uint64_t visible_keys(const QueryTile& tile, const unsigned* visible, int start) {
    uint64_t there = first_bits(tile.keys - start);
    if (visible == nullptr) return there;
    int row = tile.first_key + start;
    const unsigned* words = visible + row / 32;
    int shift = row % 32;
    uint64_t bits = (static_cast<uint64_t>(words[1]) << 32 | words[0]) >> shift;
    return there & (shift == 0 ? bits : bits | static_cast<uint64_t>(words[2]) << (64 - shift));
}

// Two neighbours, at a multiple of their size.
__device__ __forceinline__ void store2(float* to, float first, float second) {
    *reinterpret_cast<float2*>(to) = {first, second};
}
template <typename T>
__device__ __forceinline__ void store2(T* to, float first, float second) {
    *reinterpret_cast<unsigned*>(to) = pair<T>(first, second);
}

// Eight neighbours to shared memory, or zeros if they are not `there`; at once where they change their type.
template <typename T>
__device__ __forceinline__ void copy8(T* to, const T* from, bool there) {
    constexpr int EACH = 16 / sizeof(T);
#pragma unroll
    for (int i = 0; i < 8; i += EACH) copy_later(to + i, from + i, there);
}
template <typename T, typename R>
__device__ __forceinline__ void copy8(T* to, const R* from, bool there) {
    float x[8] = {};
    if (there) load8(from, x);
    store8(to, x);
}

// Rows of a head to shared memory, PITCH apart, with zeros for what `count` rows of `width` have not of ROWS and
// WIDTH: there by the time that this thread waits for its copies.
template <int ROWS, int WIDTH, int PITCH, typename T, typename R>
__device__ __forceinline__ void copy_rows(T* to, const R* from, size_t stride, int count, int width) {
    constexpr int EIGHTS = WIDTH / 8;
#pragma unroll 4
    for (int i = 0; i < ROWS * EIGHTS; i += ATTENTION_THREADS) {
        int row = (i + threadIdx.x) / EIGHTS, column = (i + threadIdx.x) % EIGHTS * 8;
        bool there = row < count && column < width;
        copy8(to + row * PITCH + column, there ? from + row * stride + column : from, there);
    }
}

// The softmax of a query as far as it has come. `scale` of scores has the logarithm of e with it: exponentials are
// powers of 2.
struct Softmax {
    float largest = -INFINITY, sum = 0.0f, below = 0.0f;

    // Goes on to scores of which this thread has `most` for the largest; `together` makes of it the largest of all
    // threads that have scores of this query. What sums so far are to be multiplied by.
    template <typename Together>
    __device__ __forceinline__ float go_on(float most, float scale, Together together) {
        most = together(fmaxf(largest, most));
        // Where no key has been seen yet, exponentials of negative infinity are to be 0.
        float next = most > -INFINITY ? most * scale : 0.0f;
        float shrunk = largest > -INFINITY ? power_of_2(below - next) : 0.0f;
        largest = most;
        below = next;
        sum *= shrunk;
        return shrunk;
    }

    // The exponential of a score below the largest.
    __device__ __forceinline__ float weight(float score, float scale) {
        float weight = power_of_2(fmaf(score, scale, -below));
        sum += weight;
        return weight;
    }
};

constexpr float LOG2_E = 1.44269504088896341f;
