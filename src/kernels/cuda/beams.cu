// How beams go on if no sequence ends otherwise than by a stop token: by those of the best extensions that do not
// stop, of equals the lower beam, then the lower id. The host compares beams all the same; the card need not wait
// for it.
#include "best.h"
#include "row.h"

struct Beams {
    const unsigned* from;       // [rows]: after which row of the step before
    const float* scores;        // [rows]: of the beams so far
    const unsigned* ends;       // [rows]: where what is ruled out after a row ends
    const unsigned* ruled_out;  // ids, row after row
    const unsigned* stops;      // tokens that end a sequence
    int stop_count;
    int beams;  // of a source: its rows are neighbours
};

struct Continued {
    unsigned token;
    unsigned beam;  // which it continues
};

// More are left to the host.
constexpr int MOST_BEAMS = 16;

using BeamRank = unsigned long long;

// The higher the better; 0 for what is no extension. Beams count to 256, ids to 2^24.
__device__ __forceinline__ BeamRank beam_rank(float score, unsigned beam, unsigned id) {
    return static_cast<BeamRank>(ordered(score)) << 32 | static_cast<unsigned>(~(beam << 24 | id));
}

// A block has a source: `next` are the rows of the step to come, `origins [capacity, slots]` says which slot has each
// entry of a slot's history. Rows beyond `rows` are like the last.
extern "C" __global__ void __launch_bounds__(128) continue_beams(
    const Candidate* best, const float* log_sums, int count, Beams how, const Row* next, unsigned* origins,
    int slots, int rows, Continued* continued, unsigned* tokens, int filled_up) {
    __shared__ BeamRank shared[WARP_SIZE];
    int base = blockIdx.x * how.beams, warp = threadIdx.x / WARP_SIZE, warps = blockDim.x / WARP_SIZE;
    auto is_in = [](unsigned id, const unsigned* ids, unsigned first, unsigned end) {
        for (unsigned i = first; i < end; i++) {
            if (ids[i] == id) return true;
        }
        return false;
    };
    // The extension with this number.
    auto rank_of = [&](int i) -> BeamRank {
        int beam = i / count, row = base + beam;
        Candidate candidate = best[static_cast<size_t>(how.from[row]) * count + i % count];
        unsigned first = row == 0 ? 0 : how.ends[row - 1];
        bool out = candidate.id == NO_ID || is_in(candidate.id, how.stops, 0, how.stop_count)
            || is_in(candidate.id, how.ruled_out, first, how.ends[row]);
        if (out) return 0;
        return beam_rank(candidate.score - log_sums[how.from[row]] + how.scores[row], beam, candidate.id);
    };
    unsigned parents[MOST_BEAMS];
    BeamRank last = ~0ull;
    for (int n = 0; n < how.beams; n++) {
        BeamRank mine = 0;
        for (int i = threadIdx.x; i < how.beams * count; i += blockDim.x) {
            BeamRank its = rank_of(i);
            if (its < last && its > mine) mine = its;
        }
#pragma unroll
        for (int mask = WARP_SIZE / 2; mask > 0; mask /= 2) {
            BeamRank other = __shfl_xor_sync(ALL_LANES, mine, mask);
            if (other > mine) mine = other;
        }
        if (threadIdx.x % WARP_SIZE == 0) shared[warp] = mine;
        __syncthreads();
        for (int i = 0; i < warps; i++) {
            if (shared[i] > mine) mine = shared[i];
        }
        __syncthreads();
        last = mine;
        unsigned low = ~static_cast<unsigned>(mine);
        Continued it = {mine == 0 ? 0 : low & 0xffffffu, mine == 0 ? 0 : low >> 24};
        if (n < MOST_BEAMS) parents[n] = it.beam;
        if (threadIdx.x > 0) continue;
        int row = base + n, end = row + 1 == rows ? filled_up : row + 1;
        continued[row] = it;
        for (int i = row; i < end; i++) tokens[i] = it.token;
    }
    for (int entry = threadIdx.x; entry + 1 < static_cast<int>(next[base].length); entry += blockDim.x) {
        unsigned* of = origins + static_cast<size_t>(entry) * slots;
        unsigned before[MOST_BEAMS];
        for (int n = 0; n < how.beams; n++) before[n] = of[next[base + parents[n]].slot];
        for (int n = 0; n < how.beams; n++) of[next[base + n].slot] = before[n];
    }
}
