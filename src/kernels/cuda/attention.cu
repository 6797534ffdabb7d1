// Attention of whole sequences, multiplied in float32.
//
// A block has up to 16 * EACH queries. Eight threads side by side share EACH of them: of 32 keys each takes every
// eighth, of the values' columns four of every 32.
#include "attention.h"

constexpr int FLOAT_KEYS = 32;
constexpr int SHARERS = 8;
constexpr int OWN_KEYS = FLOAT_KEYS / SHARERS;
constexpr int WEIGHTS_PITCH = FLOAT_KEYS + 4;

__device__ __forceinline__ float4 load4(const float* from) { return *reinterpret_cast<const float4*>(from); }

// What the threads that share a query find together.
__device__ __forceinline__ float largest_of_sharers(float x) {
#pragma unroll
    for (int mask = SHARERS / 2; mask > 0; mask /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, mask));
    return x;
}

__device__ __forceinline__ float sum_of_sharers(float x) {
#pragma unroll
    for (int mask = SHARERS / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(ALL_LANES, x, mask);
    return x;
}

// Scores of a thread's queries with its keys.
template <int EACH, int PITCH>
__device__ __forceinline__ void multiply_keys(
    float (&scores)[EACH][OWN_KEYS], const float* queries, const float* keys, int width) {
#pragma unroll
    for (int i = 0; i < EACH * OWN_KEYS; i++) scores[i / OWN_KEYS][i % OWN_KEYS] = 0.0f;
#pragma unroll 2
    for (int column = 0; column < width; column += 4) {
        float4 q[EACH], k[OWN_KEYS];
#pragma unroll
        for (int i = 0; i < EACH; i++) q[i] = load4(queries + i * PITCH + column);
#pragma unroll
        for (int j = 0; j < OWN_KEYS; j++) k[j] = load4(keys + j * SHARERS * PITCH + column);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
#pragma unroll
            for (int j = 0; j < OWN_KEYS; j++) {
                float sum = fmaf(q[i].x, k[j].x, scores[i][j]);
                sum = fmaf(q[i].y, k[j].y, sum);
                sum = fmaf(q[i].z, k[j].z, sum);
                scores[i][j] = fmaf(q[i].w, k[j].w, sum);
            }
        }
    }
}

// sums += weights values, in a thread's columns.
template <int EACH, int WIDTH, int PITCH>
__device__ __forceinline__ void multiply_values(
    float (&sums)[EACH][WIDTH / SHARERS], const float* weights, const float* values) {
#pragma unroll 1
    for (int key = 0; key < FLOAT_KEYS; key += 4) {
        float weight[EACH][4];
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            float4 four = load4(weights + i * WEIGHTS_PITCH + key);
            weight[i][0] = four.x, weight[i][1] = four.y, weight[i][2] = four.z, weight[i][3] = four.w;
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int n = 0; n < WIDTH / SHARERS; n += 4) {
                float4 value = load4(values + (key + j) * PITCH + n * SHARERS);
#pragma unroll
                for (int i = 0; i < EACH; i++) {
                    sums[i][n] = fmaf(weight[i][j], value.x, sums[i][n]);
                    sums[i][n + 1] = fmaf(weight[i][j], value.y, sums[i][n + 1]);
                    sums[i][n + 2] = fmaf(weight[i][j], value.z, sums[i][n + 2]);
                    sums[i][n + 3] = fmaf(weight[i][j], value.w, sums[i][n + 3]);
                }
            }
        }
    }
}

// The weights of a query's scores, to shared memory; former sums shrink. Of the thread's keys `seen` has a bit for
// every eighth.
template <int COLUMNS>
__device__ __forceinline__ void weigh(
    float (&scores)[OWN_KEYS], unsigned seen, Softmax& softmax, float (&sums)[COLUMNS], float scale, float* weights) {
    float most = -INFINITY;
#pragma unroll
    for (int j = 0; j < OWN_KEYS; j++) {
        if (!(seen >> (j * SHARERS) & 1)) scores[j] = -INFINITY;
        most = fmaxf(most, scores[j]);
    }
    float shrunk = softmax.go_on(most, scale, largest_of_sharers);
#pragma unroll
    for (int j = 0; j < OWN_KEYS; j++) weights[j * SHARERS] = softmax.weight(scores[j], scale);
#pragma unroll
    for (int n = 0; n < COLUMNS; n++) sums[n] *= shrunk;
}

// Divides the sums of one of this thread's queries by their weights' sum, and stores them.
template <int COLUMNS, typename R>
__device__ __forceinline__ void finish(
    const Sequences<R>& all, const QueryTile& tile, int query, int first, float (&sums)[COLUMNS], float total) {
    if (query >= tile.queries) return;
    if (total == 0.0f && all.mean) {
        for (int key = 0; key < tile.keys; key++) {
            const R* value = all.at(all.v, tile.first_key + key) + first;
#pragma unroll
            for (int n = 0; n < COLUMNS; n++) {
                int column = n / 4 * 4 * SHARERS + n % 4;
                if (first + column < all.width) sums[n] += widen(value[column]);
            }
        }
        total = tile.keys;
    }
    float share = total == 0.0f ? 0.0f : 1.0f / total;
    R* to = all.at(all.out, tile.first_query + query) + first;
#pragma unroll
    for (int n = 0; n < COLUMNS; n += 2) {
        int column = n / 4 * 4 * SHARERS + n % 4;
        if (first + column < all.width) store2(to + column, sums[n] * share, sums[n + 1] * share);
    }
}

template <int WIDTH, int EACH, typename R>
__device__ __forceinline__ void attend_float(const Sequences<R>& all) {
    constexpr int PITCH = WIDTH + 4, QUERIES = ATTENTION_THREADS / SHARERS * EACH;
    DYNAMIC_SHARED(queries);
    // Keys, then their values.
    float* entries = queries + QUERIES * PITCH;
    float* weights = entries + FLOAT_KEYS * PITCH;
    const QueryTile tile = all.tiles[blockIdx.x].from(blockIdx.z * QUERIES, QUERIES);
    auto copy = [&](const R* rows, int start) {
        const R* from = all.at(rows, tile.first_key + start);
        copy_rows<FLOAT_KEYS, WIDTH, PITCH>(entries, from, all.stride(), tile.keys - start, all.width);
    };
    // The first of this thread's queries, and which of their keys and columns it takes.
    int first = threadIdx.x / SHARERS * EACH, share = threadIdx.x % SHARERS;
    float* own_weights = weights + first * WEIGHTS_PITCH;
    float scale = all.scale * LOG2_E;
    int seen = tile.seen_by(tile.queries);

    const R* q = all.at(all.q, tile.first_query);
    copy_rows<QUERIES, WIDTH, PITCH>(queries, q, all.stride(), tile.queries, all.width);
    Softmax softmax[EACH];
    float sums[EACH][WIDTH / SHARERS] = {}, scores[EACH][OWN_KEYS];
    for (int start = 0; start < seen; start += FLOAT_KEYS) {
        copy(all.k, start);
        wait_for_copies();
        __syncthreads();
        multiply_keys<EACH, PITCH>(scores, queries + first * PITCH, entries + share * PITCH, all.width);
        // All are done with the keys.
        __syncthreads();
        copy(all.v, start);
        uint64_t visible = visible_keys(tile, all.visible, start);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            uint64_t here = visible & first_bits(tile.last_key + first + i - start + 1);
            weigh(scores[i], static_cast<unsigned>(here) >> share, softmax[i], sums[i], scale,
                  own_weights + i * WEIGHTS_PITCH + share);
        }
        wait_for_copies();
        __syncthreads();
        multiply_values<EACH, WIDTH, PITCH>(sums, own_weights, entries + share * 4);
        // All are done with the values.
        __syncthreads();
    }
    // Of queries that see no key the copies may still be under way.
    wait_for_copies();
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        finish(all, tile, first + i, share * 4, sums[i], sum_of_sharers(softmax[i].sum));
    }
}

// So that all fits in shared memory, the widest heads have half the queries in a block: blockIdx.z says which. With
// three blocks at a time all sums are in registers.
#define ATTENTION(width, each)                                                                         \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 3) attention_float32_float32_##width( \
        const float* q, const float* k, const float* v, float* out, const QueryTile* tiles,            \
        const unsigned* visible, int heads, int head_width, float scale, int mean) {                   \
        attend_float<width, each>(                                                                     \
            Sequences<float>{q, k, v, out, tiles, visible, heads, head_width, scale, mean});           \
    }

ATTENTION(32, 4)
ATTENTION(64, 4)
ATTENTION(128, 2)
