// The generator that the CPU has (`src/random.rs`: Philox4x32-10, Salmon et al. 2011).
#pragma once

#include "numbers.h"

// Four random words of a key and a counter, in the counter's place.
__device__ __forceinline__ void philox(unsigned key_low, unsigned key_high, unsigned (&counter)[4]) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        unsigned long long first = 0xD2511F53ull * counter[0], second = 0xCD9E8D57ull * counter[2];
        unsigned next[4] = {
            static_cast<unsigned>(second >> 32) ^ counter[1] ^ key_low, static_cast<unsigned>(second),
            static_cast<unsigned>(first >> 32) ^ counter[3] ^ key_high, static_cast<unsigned>(first)};
#pragma unroll
        for (int i = 0; i < 4; i++) counter[i] = next[i];
        key_low += 0x9E3779B9u, key_high += 0xBB67AE85u;
    }
}
