// Keys and values of tokens fed so far, [slots, capacity, heads * width], and attention to them.
#include "numbers.h"

// A row of a step: its slot, and how many entries of it the row sees (its own is the last of them).
struct Row {
    unsigned slot;
    unsigned length;
};

// Stores the rows' keys and values as the last entry of what each row sees.
template <typename T>
__device__ __forceinline__ void store(
    const float* k, const float* v, const Row* rows, int capacity, int width, T* keys, T* values) {
    Row row = rows[blockIdx.x];
    size_t to = (static_cast<size_t>(row.slot) * capacity + row.length - 1) * width;
    size_t from = static_cast<size_t>(blockIdx.x) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        keys[to + i] = narrow<T>(k[from + i]);
        values[to + i] = narrow<T>(v[from + i]);
    }
}

// softmax(q k^T * scale) v of one row and head a block, over what the row sees. `head_width` is a
// multiple of 8. Shared memory: the head's query, a weight for each of `capacity` keys, a float a warp,
// and a sum for each thread.
template <typename T>
__device__ __forceinline__ void attend(
    const float* q, const T* keys, const T* values, const Row* rows, int capacity, int heads,
    int head_width, float scale, float* out) {
    DYNAMIC_SHARED(query);
    float* weights = query + head_width;
    float* shared = weights + capacity;
    float* sums = shared + WARP_SIZE;
    Row row = rows[blockIdx.x];
    int head = blockIdx.y, width = heads * head_width, length = row.length;
    size_t here = static_cast<size_t>(blockIdx.x) * width + head * head_width;
    size_t history = static_cast<size_t>(row.slot) * capacity * width + head * head_width;
    for (int i = threadIdx.x; i < head_width; i += blockDim.x) query[i] = q[here + i] * scale;
    __syncthreads();
    // A thread has whole keys: 8 neighbours at a time.
    float largest = -INFINITY;
    for (int j = threadIdx.x; j < length; j += blockDim.x) {
        const T* key = keys + history + static_cast<size_t>(j) * width;
        float score = 0.0f;
        for (int i = 0; i < head_width; i += 8) {
            float part[8];
            load8(key + i, part);
#pragma unroll
            for (int n = 0; n < 8; n++) score = fmaf(query[i + n], part[n], score);
        }
        weights[j] = score;
        largest = fmaxf(largest, score);
    }
    largest = block_max(largest, shared);
    float sum = 0.0f;
    for (int j = threadIdx.x; j < length; j += blockDim.x) {
        float weight = expf(weights[j] - largest);
        weights[j] = weight;
        sum += weight;
    }
    // Of a history without entries the answer is 0.
    sum = block_sum(sum, shared);
    float share = sum > 0.0f ? 1.0f / sum : 0.0f;
    // Threads side by side take neighbours of a value; groups of them take every so many values.
    int groups = blockDim.x / head_width, group = threadIdx.x / head_width;
    int i = threadIdx.x % head_width;
    float total = 0.0f;
    if (group < groups) {
        for (int j = group; j < length; j += groups) {
            total = fmaf(weights[j], widen(values[history + static_cast<size_t>(j) * width + i]), total);
        }
    }
    sums[threadIdx.x] = total;
    __syncthreads();
    if (group == 0) {
        for (int other = 1; other < groups; other++) total += sums[other * head_width + i];
        out[here + i] = total * share;
    }
}

// Slot `destination[i]` gets what `origin[i]` holds, from one copy of the cache to another: a block a
// move and an entry.
template <typename T>
__device__ __forceinline__ void reorder(
    const T* from, T* to, const unsigned* destination, const unsigned* origin, const unsigned* lengths,
    int capacity, int width) {
    unsigned slot = origin[blockIdx.x];
    for (unsigned entry = blockIdx.y; entry < lengths[slot]; entry += gridDim.y) {
        size_t source = (static_cast<size_t>(slot) * capacity + entry) * width;
        size_t target = (static_cast<size_t>(destination[blockIdx.x]) * capacity + entry) * width;
        for (int i = threadIdx.x; i < width; i += blockDim.x) to[target + i] = from[source + i];
    }
}

#define CACHE(type, name)                                                                              \
    extern "C" __global__ void __launch_bounds__(256) store_##name(                                    \
        const float* k, const float* v, const Row* rows, int capacity, int width, type* keys,          \
        type* values) {                                                                                \
        store<type>(k, v, rows, capacity, width, keys, values);                                        \
    }                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) attend_##name(                                   \
        const float* q, const type* keys, const type* values, const Row* rows, int capacity,           \
        int heads, int head_width, float scale, float* out) {                                          \
        attend<type>(q, keys, values, rows, capacity, heads, head_width, scale, out);                  \
    }                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) reorder_##name(                                  \
        const type* from, type* to, const unsigned* destination, const unsigned* origin,               \
        const unsigned* lengths, int capacity, int width) {                                            \
        reorder<type>(from, to, destination, origin, lengths, capacity, width);                        \
    }

CACHE(float, float32)
CACHE(float16, float16)
CACHE(bfloat16, bfloat16)
