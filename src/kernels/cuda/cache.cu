// Keys and values of tokens fed so far, [slots, capacity, heads * width], and attention to them.
//
// Where slots continue each other's histories (beams do), entries stay where they are: `origins
// [capacity, slots]` says which slot has each entry of a slot's history; without it, it is that slot itself.
#include "numbers.h"
#include "row.h"

// Stores the rows' keys and values as the last entry of what each row sees.
template <typename T>
__device__ __forceinline__ void store(
    const float* k, const float* v, const Row* rows, int capacity, int width, T* keys, T* values,
    unsigned* origins, int slots) {
    Row row = rows[blockIdx.x];
    size_t to = (static_cast<size_t>(row.slot) * capacity + row.length - 1) * width;
    size_t from = static_cast<size_t>(blockIdx.x) * width;
    if (origins != nullptr && threadIdx.x == 0) origins[(row.length - 1) * slots + row.slot] = row.slot;
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
    int head_width, float scale, const unsigned* origins, int slots, float* out) {
    DYNAMIC_SHARED(query);
    float* weights = query + head_width;
    float* shared = weights + capacity;
    float* sums = shared + WARP_SIZE;
    Row row = rows[blockIdx.x];
    int head = blockIdx.y, width = heads * head_width, length = row.length;
    size_t here = static_cast<size_t>(blockIdx.x) * width + head * head_width;
    auto entry = [&](int j) {
        size_t slot = origins == nullptr ? row.slot : origins[j * slots + row.slot];
        return (slot * capacity + j) * width + head * head_width;
    };
    for (int i = threadIdx.x; i < head_width; i += blockDim.x) query[i] = q[here + i] * scale;
    __syncthreads();
    // A thread has whole keys: 8 neighbours at a time.
    float largest = -INFINITY;
    for (int j = threadIdx.x; j < length; j += blockDim.x) {
        const T* key = keys + entry(j);
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
            total = fmaf(weights[j], widen(values[entry(j) + i]), total);
        }
    }
    sums[threadIdx.x] = total;
    __syncthreads();
    if (group == 0) {
        for (int other = 1; other < groups; other++) total += sums[other * head_width + i];
        out[here + i] = total * share;
    }
}

#define CACHE(type, name)                                                                              \
    extern "C" __global__ void __launch_bounds__(256) store_##name(                                    \
        const float* k, const float* v, const Row* rows, int capacity, int width, type* keys,          \
        type* values, unsigned* origins, int slots) {                                                  \
        store<type>(k, v, rows, capacity, width, keys, values, origins, slots);                        \
    }                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) attend_##name(                                   \
        const float* q, const type* keys, const type* values, const Row* rows, int capacity,           \
        int heads, int head_width, float scale, const unsigned* origins, int slots, float* out) {      \
        attend<type>(q, keys, values, rows, capacity, heads, head_width, scale, origins, slots, out);  \
    }

CACHE(float, float32)
CACHE(float16, float16)
CACHE(bfloat16, bfloat16)
