// What a step is likely followed by, so that a card can go on before the host has chosen: the host chooses
// all the same, and has the step done again where it chose otherwise.
#include "best.h"
#include "philox.h"

// What is known of a choice among the best.
struct Likely {
    const unsigned* from;       // [rows]: after which row of the step before
    const unsigned* given;      // [rows]: a token that is certain, or NO_ID
    const unsigned* ends;       // [rows]: where what is ruled out after a row ends
    const unsigned* ruled_out;  // ids, row after row
    const unsigned* keys;       // [rows, 2] of the draws, or none: the best is chosen
    int candidates;             // among how many it is drawn
    float temperature;
    float top_p;                // among the first of them that together have this probability
};

// A number in [0, 1): the first of the stream that the CPU draws from (`Stream` in `src/random.rs`).
__device__ __forceinline__ double first_draw(const unsigned* key, unsigned step) {
    unsigned words[4] = {0, 0, step, 0};
    philox(key[0], key[1], words);
    unsigned long long upper = words[0], lower = words[1];
    return static_cast<double>(upper << 21 | lower >> 11) * (1.0 / 9007199254740992.0);
}

// The tokens of the next step's rows, of which those beyond `rows` are like the last: after `best
// [rows before, count]`, at `positions`. A thread has a row.
extern "C" __global__ void __launch_bounds__(256) follow(
    const Candidate* best, int count, Likely likely, const unsigned* positions, int rows, int filled_up,
    unsigned* tokens) {
    int place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= filled_up) return;
    int row = min(place, rows - 1);
    const Candidate* mine = best + static_cast<size_t>(likely.from[row]) * count;
    unsigned first = row == 0 ? 0 : likely.ends[row - 1], end = likely.ends[row];
    // Calls `take` with those that are allowed, the best first, until it has enough.
    auto visit = [&](auto take) {
        for (int n = 0, taken = 0; n < count && taken < likely.candidates; n++) {
            bool allowed = mine[n].id != NO_ID;
            for (unsigned i = first; i < end; i++) allowed = allowed && mine[n].id != likely.ruled_out[i];
            if (allowed && take(mine[n], taken++)) return;
        }
    };
    unsigned chosen = likely.given[row];
    if (chosen == NO_ID && likely.keys == nullptr) {
        visit([&](Candidate candidate, int) { return chosen = candidate.id, true; });
    } else if (chosen == NO_ID) {
        float largest = 0.0f;
        double total = 0.0, sum = 0.0;
        auto weight = [&](Candidate candidate, int taken) {
            if (taken == 0) largest = candidate.score;
            return static_cast<double>(expf((candidate.score - largest) / likely.temperature));
        };
        visit([&](Candidate candidate, int taken) { return total += weight(candidate, taken), false; });
        if (likely.top_p < 1.0f) {
            double whole = total;
            total = 0.0;
            visit([&](Candidate candidate, int taken) {
                total += weight(candidate, taken);
                return total >= likely.top_p * whole;
            });
        }
        double target = first_draw(likely.keys + 2 * row, positions[row]) * total;
        visit([&](Candidate candidate, int taken) {
            chosen = candidate.id;
            sum += weight(candidate, taken);
            return sum > target;
        });
    }
    // Where nothing is allowed the host refuses to go on.
    tokens[place] = chosen == NO_ID ? 0 : chosen;
}
