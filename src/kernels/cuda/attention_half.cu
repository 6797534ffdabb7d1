// Attention of whole sequences, multiplied in float16 or bfloat16 by tensor cores; sums and softmax are float32.
//
// Each of four warps has 16 queries. Their numbers stay in registers; keys and values come to shared memory 64 at
// a time, values while scores are computed, the next keys while values are summed. The threads that hold
// scores of some keys are those who must hold their weights to multiply values by them.
#include "attention.h"

constexpr int KEYS = 64;
constexpr int WARP_QUERIES = 16;

// Two neighbours as a product takes them.
template <typename T>
__device__ __forceinline__ unsigned pair_at(const T* from) {
    return *reinterpret_cast<const unsigned*>(from);
}
template <typename T>
__device__ __forceinline__ unsigned pair_at(const float* from) {
    float2 both = *reinterpret_cast<const float2*>(from);
    return pair<T>(both.x, both.y);
}

// The queries of a warp [16, WIDTH] as left sides of products, 16 columns each. `from` is the one of lane / 4, the
// first of `rows` that are there.
template <typename T, int WIDTH, typename R>
__device__ __forceinline__ void load_queries(
    unsigned (&queries)[WIDTH / 16][4], const R* from, size_t stride, int rows, int width) {
    int first = threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < WIDTH / 16 * 4; i++) {
        int row = i % 2 * 8, column = i / 4 * 16 + i / 2 % 2 * 8 + first;
        bool there = row < rows && column < width;
        queries[i / 4][i % 4] = there ? pair_at<T>(from + row * stride + column) : 0;
    }
}

// The scores of a warp's queries with the first `count` keys, by 8 keys.
template <typename T, int WIDTH>
__device__ __forceinline__ void multiply_keys(
    float (&scores)[KEYS / 8][4], const unsigned (&queries)[WIDTH / 16][4], const T* keys, int count) {
    constexpr int PITCH = WIDTH + 8;
    int lane = threadIdx.x % WARP_SIZE;
    // Of 16 keys and 16 columns: the first 8 keys by 8 columns, then the next 8 keys.
    const T* row = keys + (lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n += 2) {
#pragma unroll
        for (int i = 0; i < 4; i++) scores[n][i] = scores[n + 1][i] = 0.0f;
        if (n * 8 < count) {
#pragma unroll
            for (int i = 0; i < WIDTH / 16; i++) {
                unsigned b[4];
                load_matrices(b, row + n * 8 * PITCH + i * 16);
                multiply<T>(scores[n], queries[i], {b[0], b[1]});
                multiply<T>(scores[n + 1], queries[i], {b[2], b[3]});
            }
        }
    }
}

// sums += weights values, over the first `count` values.
template <typename T, int WIDTH>
__device__ __forceinline__ void multiply_values(
    float (&sums)[WIDTH / 8][4], const float (&weights)[KEYS / 8][4], const T* values, int count) {
    constexpr int PITCH = WIDTH + 8;
    int lane = threadIdx.x % WARP_SIZE;
    // Of 16 values and 16 columns: the first 8 columns by 8 values, then the next 8 columns.
    const T* row = values + lane % 16 * PITCH + lane / 16 * 8;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n += 2) {
        if (n * 8 < count) {
            unsigned a[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                a[i] = pair<T>(weights[n + i / 2][i % 2 * 2], weights[n + i / 2][i % 2 * 2 + 1]);
            }
#pragma unroll
            for (int i = 0; i < WIDTH / 16; i++) {
                unsigned b[4];
                load_transposed(b, row + n * 8 * PITCH + i * 16);
                multiply<T>(sums[2 * i], a, {b[0], b[1]});
                multiply<T>(sums[2 * i + 1], a, {b[2], b[3]});
            }
        }
    }
}

// Takes away the scores of keys that are not to be seen: of the 64 from `start` on a bit each for those that may be,
// of which the query of lane / 4 sees those up to `last_key`, and that 8 below 8 more.
__device__ __forceinline__ void hide(float (&scores)[KEYS / 8][4], uint64_t visible, int last_key) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        uint64_t seen = (visible & first_bits(last_key + 8 * r + 1)) >> (threadIdx.x % 4 * 2);
        unsigned words[2] = {static_cast<unsigned>(seen), static_cast<unsigned>(seen >> 32)};
#pragma unroll
        for (int n = 0; n < KEYS / 8 * 2; n++) {
            float& score = scores[n / 2][2 * r + n % 2];
            score = words[n / 8] >> (n / 2 % 4 * 8 + n % 2) & 1 ? score : -INFINITY;
        }
    }
}

// What the four threads with parts of a query find together.
__device__ __forceinline__ float largest_of_four(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

__device__ __forceinline__ float sum_of_four(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

// Scores become weights; former sums shrink.
template <int WIDTH>
__device__ __forceinline__ void weigh(
    float (&scores)[KEYS / 8][4], Softmax (&softmax)[2], float (&sums)[WIDTH / 8][4], float scale) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float most = -INFINITY;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) most = fmaxf(most, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
        float shrunk = softmax[r].go_on(most, scale, largest_of_four);
#pragma unroll
        for (int n = 0; n < KEYS / 8 * 2; n++) {
            float& score = scores[n / 2][2 * r + n % 2];
            score = softmax[r].weight(score, scale);
        }
#pragma unroll
        for (int n = 0; n < WIDTH / 8 * 2; n++) sums[n / 2][2 * r + n % 2] *= shrunk;
    }
}

// Divides the sums of one of this thread's two queries by their weights' sum, and stores them.
template <typename T, int WIDTH, typename R>
__device__ __forceinline__ void finish(
    const Sequences<R>& all, const QueryTile& tile, int query, float (&sums)[WIDTH / 8][4], int which, float total) {
    if (query >= tile.queries) return;
    int first = threadIdx.x % 4 * 2;
    if (total == 0.0f && all.mean) {
        for (int key = 0; key < tile.keys; key++) {
            const R* value = all.at(all.v, tile.first_key + key) + first;
#pragma unroll
            for (int n = 0; n < WIDTH / 8 * 2; n++) {
                int column = n / 2 * 8 + n % 2;
                if (first + column < all.width) {
                    sums[n / 2][2 * which + n % 2] += widen(narrow<T>(widen(value[column])));
                }
            }
        }
        total = tile.keys;
    }
    float share = total == 0.0f ? 0.0f : 1.0f / total;
    R* to = all.at(all.out, tile.first_query + query) + first;
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n++) {
        if (first + n * 8 < all.width) {
            store2(to + n * 8, sums[n][2 * which] * share, sums[n][2 * which + 1] * share);
        }
    }
}

template <typename T, int WIDTH, typename R>
__device__ __forceinline__ void attend_half(const Sequences<R>& all) {
    constexpr int PITCH = WIDTH + 8;
    DYNAMIC_SHARED(shared);
    T* keys = reinterpret_cast<T*>(shared);
    T* values = keys + KEYS * PITCH;
    const QueryTile tile = all.tiles[blockIdx.x];
    const R *k = all.at(all.k, tile.first_key), *v = all.at(all.v, tile.first_key);
    auto copy = [&](T* to, const R* rows, int start) {
        const R* from = rows + start * all.stride();
        copy_rows<KEYS, WIDTH, PITCH>(to, from, all.stride(), tile.keys - start, all.width);
    };
    // The first query of this warp, and that of this thread; how many keys are seen by the block, and by the warp.
    int first = threadIdx.x / WARP_SIZE * WARP_QUERIES, query = first + threadIdx.x % WARP_SIZE / 4;
    int seen = tile.seen_by(tile.queries);
    int seen_here = first < tile.queries ? tile.seen_by(first + WARP_QUERIES) : 0;
    float scale = all.scale * LOG2_E;

    unsigned queries[WIDTH / 16][4];
    const R* mine = all.at(all.q, tile.first_query + query);
    load_queries<T, WIDTH>(queries, mine, all.stride(), tile.queries - query, all.width);
    Softmax softmax[2];
    float sums[WIDTH / 8][4] = {}, scores[KEYS / 8][4];
    if (seen > 0) copy(keys, k, 0);
    for (int start = 0; start < seen; start += KEYS) {
        wait_for_copies();
        // The keys are there, and all are done with the values before.
        __syncthreads();
        copy(values, v, start);
        int count = seen_here - start;
        if (count > 0) {
            multiply_keys<T, WIDTH>(scores, queries, keys, count);
            uint64_t visible = visible_keys(tile, all.visible, start);
            bool all_seen = visible == ~0ull && start + KEYS <= tile.last_key + first + 1;
            if (!all_seen) hide(scores, visible, tile.last_key + query - start);
            weigh<WIDTH>(scores, softmax, sums, scale);
        }
        wait_for_copies();
        // The values are there, and all are done with the keys.
        __syncthreads();
        if (start + KEYS < seen) copy(keys, k, start + KEYS);
        if (count > 0) multiply_values<T, WIDTH>(sums, scores, values, count);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        finish<T, WIDTH>(all, tile, query + 8 * i, sums, i, sum_of_four(softmax[i].sum));
    }
}

// With so many blocks at a time all sums are in registers.
#define ATTENTION_HALF(type, name, row, rows, width)                                                      \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, width > 64 ? 2 : 3)                   \
        attention_##name##_##rows##_##width(                                                              \
        const row* q, const row* k, const row* v, row* out, const QueryTile* tiles,                       \
        const unsigned* visible, int heads, int head_width, float scale, int mean) {                      \
        attend_half<type, width>(                                                                         \
            Sequences<row>{q, k, v, out, tiles, visible, heads, head_width, scale, mean});                \
    }

#define ATTENTION_HALF_OF(type, name, row, rows) \
    ATTENTION_HALF(type, name, row, rows, 32)    \
    ATTENTION_HALF(type, name, row, rows, 64)    \
    ATTENTION_HALF(type, name, row, rows, 128)

ATTENTION_HALF_OF(float16, float16, float, float32)
ATTENTION_HALF_OF(float16, float16, float16, float16)
ATTENTION_HALF_OF(bfloat16, bfloat16, float, float32)
ATTENTION_HALF_OF(bfloat16, bfloat16, bfloat16, bfloat16)
