// A candidate for the next token.
#pragma once

#include "numbers.h"

struct Candidate {
    float score;
    unsigned id;
};

// Stands for none.
constexpr unsigned NO_ID = 0xffffffffu;

// A score as a number whose order is the same.
__device__ __forceinline__ unsigned ordered(float score) {
    unsigned bits = score == 0.0f ? 0u : __float_as_uint(score);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
