// Factors of dropout, 0 or 1 / (1 - probability), from the generator that the CPU has: a draw depends on seed,
// stream and element only.
#include "philox.h"

// What is drawn from: `words[i] >= threshold` keeps an element.
struct Draw {
    unsigned seed[2];
    unsigned stream[2];
    unsigned threshold;
    float kept;
};

// The factors of elements 4 * block .. 4 * block + 4.
__device__ __forceinline__ void factors_of(const Draw& draw, unsigned long long block, float (&factors)[4]) {
    unsigned words[4] = {
        static_cast<unsigned>(block), static_cast<unsigned>(block >> 32), draw.stream[0], draw.stream[1]};
    philox(draw.seed[0], draw.seed[1], words);
#pragma unroll
    for (int i = 0; i < 4; i++) factors[i] = words[i] >= draw.threshold ? draw.kept : 0.0f;
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
