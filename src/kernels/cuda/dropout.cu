// Factors of dropout, 0 or 1 / (1 - probability), from the generator that the CPU has
// (`src/random.rs`: Philox4x32-10, Salmon et al. 2011): a draw depends on seed, stream and element only.
#include "numbers.h"

// What is drawn from: `words[i] >= threshold` keeps an element.
struct Draw {
    unsigned seed[2];
    unsigned stream[2];
    unsigned threshold;
    float kept;
};

// The factors of elements 4 * block .. 4 * block + 4.
__device__ __forceinline__ void factors_of(const Draw& draw, unsigned long long block, float (&factors)[4]) {
    unsigned key[2] = {draw.seed[0], draw.seed[1]};
    unsigned counter[4] = {
        static_cast<unsigned>(block), static_cast<unsigned>(block >> 32), draw.stream[0], draw.stream[1]};
#pragma unroll
    for (int round = 0; round < 10; round++) {
        unsigned long long first = 0xD2511F53ull * counter[0], second = 0xCD9E8D57ull * counter[2];
        unsigned next[4] = {
            static_cast<unsigned>(second >> 32) ^ counter[1] ^ key[0], static_cast<unsigned>(second),
            static_cast<unsigned>(first >> 32) ^ counter[3] ^ key[1], static_cast<unsigned>(first)};
#pragma unroll
        for (int i = 0; i < 4; i++) counter[i] = next[i];
        key[0] += 0x9E3779B9u, key[1] += 0xBB67AE85u;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) factors[i] = counter[i] >= draw.threshold ? draw.kept : 0.0f;
}

// factors[i] of element i.
extern "C" __global__ void __launch_bounds__(256) dropout_factors(
    float* factors, unsigned long long count, Draw draw) {
    unsigned long long block = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (4 * block >= count) return;
    float drawn[4];
    factors_of(draw, block, drawn);
    for (int i = 0; i < 4 && 4 * block + i < count; i++) factors[4 * block + i] = drawn[i];
}

// factors [sequences, heads, queries, keys] of attention: of a weight the element is
// ((row * heads + head) << 32) | key, with rows counted from `starts[sequence]` on. A block has a query of a
// head.
extern "C" __global__ void __launch_bounds__(256) attention_dropout_factors(
    float* factors, const unsigned* starts, int heads, int queries, int keys, Draw draw) {
    unsigned row = starts[blockIdx.z] + blockIdx.x, head = blockIdx.y;
    unsigned long long first = static_cast<unsigned long long>(row) * heads + head << 32;
    float* to = factors
        + ((static_cast<size_t>(blockIdx.z) * heads + head) * queries + blockIdx.x) * keys;
    for (int j = 4 * threadIdx.x; j < keys; j += 4 * blockDim.x) {
        float drawn[4];
        factors_of(draw, (first | j) / 4, drawn);
        for (int i = 0; i < 4 && j + i < keys; i++) to[j + i] = drawn[i];
    }
}
