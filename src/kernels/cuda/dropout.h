// Factors of dropout, 0 or 1 / (1 - probability), from the generator that the CPU has: a draw depends on seed,
// stream and element only.
#pragma once

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

// The element of a weight of attention: of a row of all queries, a head, and a key of its sequence.
__device__ __forceinline__ unsigned long long element_of_weight(unsigned row, int heads, int head, int key) {
    return static_cast<unsigned long long>(row) * heads + head << 32 | static_cast<unsigned>(key);
}
