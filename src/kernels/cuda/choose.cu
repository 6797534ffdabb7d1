// Chooses the token after each row of scores: rules change the scores, then the best is chosen, or one is drawn
// of those that top-k, top-p and min-p leave. What it is to choose is what the samplers of the CPU choose
// (`src/generation/samplers`, its twin): from the same random numbers, in the order of the ids.
//
// A block has a row, and a thread at most a few dozen scores of it, which it looks at again and again: they stay
// in the cache.
#include "best.h"
#include "philox.h"

// What is known of a choice.
struct Choices {
    const unsigned* from;       // [rows]: after which row of scores it is
    const unsigned* given;      // [rows]: a token that is certain, or NO_ID
    const unsigned* positions;  // [rows]: where the token will stand
    const unsigned* ends;       // [rows, 3]: where a row's part of each of the following ends
    const unsigned* penalised;  // ids, each once in a row
    const unsigned* ruled_out;  // ids
    const unsigned* grown;      // pairs of an id and a number, each id once in a row
    const unsigned* keys;       // [rows, 2] of the draws, or none: the best is chosen
    float penalty;              // positive scores of penalised tokens are divided by it, others multiplied
    float temperature;
    float top_p;                // 1: all of them
    float min_p;                // 0: all of them
    int top_k;                  // 0: all of them
    int limit;                  // tokens from this id on are not chosen
    unsigned in_turn;           // each filter sees what the one before has left
    unsigned log_probability;   // that of the best is wanted too
};

struct Chosen {
    unsigned token;
    float best;  // the highest score
    float log_probability;
    unsigned broken;  // a score was NaN, or positive infinity
};

// Memory of a block.
struct Shared {
    double* masses;  // one for each warp
    unsigned* numbers;
    Candidate* held;  // one for each thread
};

struct Measure {
    unsigned count;
    double mass;
};

// How many are kept and how much together, at most but for the last; equal to `mass` is too much unless
// `inclusive`.
struct Limits {
    unsigned count;
    double mass;
    bool inclusive;

    __device__ bool have_room(Measure taken) const {
        return taken.count < count && (taken.mass < mass || (inclusive && taken.mass == mass));
    }
};

using Rank = unsigned long long;

// The higher the better: of equal scores the lower id.
__device__ __forceinline__ Rank rank(float score, unsigned id) {
    return static_cast<Rank>(ordered(score)) << 32 | static_cast<unsigned>(~id);
}

__device__ __forceinline__ Measure block_sum(Measure mine, Shared shared) {
    mine.count = block_sum(mine.count, shared.numbers);
    mine.mass = block_sum(mine.mass, shared.masses);
    return mine;
}

// The candidate of the highest rank in a block.
__device__ __forceinline__ Candidate block_best(Candidate mine, Shared shared) {
    auto take = [&](Candidate other) {
        if (rank(other.score, other.id) > rank(mine.score, mine.id)) mine = other;
    };
#pragma unroll
    for (int mask = WARP_SIZE / 2; mask > 0; mask /= 2) {
        float score = __shfl_xor_sync(ALL_LANES, mine.score, mask);
        take({score, __shfl_xor_sync(ALL_LANES, mine.id, mask)});
    }
    int warp = threadIdx.x / WARP_SIZE, warps = blockDim.x / WARP_SIZE;
    if (threadIdx.x % WARP_SIZE == 0) shared.held[warp] = mine;
    __syncthreads();
    for (int i = 0; i < warps; i++) take(shared.held[i]);
    __syncthreads();
    return mine;
}

// Above which rank are those that the limits leave, of candidates with a rank above `floor` and at most `top`,
// which one of them has. Ranks differ, or else equals are left together.
//
// `visit` shows a thread its candidates. The interval that has the last that is kept is halved until that is
// alone in it; each time all threads count what is in its upper half.
template <typename Visit, typename RankOf, typename Weigh>
__device__ Rank cut(Visit visit, RankOf rank_of, Weigh weigh, Rank floor, Rank top, Limits limits, Shared shared) {
    bool has_mass = limits.mass < INFINITY;
    auto measure = [&](Rank above, Rank up_to) {
        Measure mine{0, 0.0};
        visit([&](Candidate candidate) {
            Rank its = rank_of(candidate);
            if (its <= above || its > up_to) return;
            mine.count++;
            if (has_mass) mine.mass += weigh(candidate);
        });
        return block_sum(mine, shared);
    };
    Measure taken{0, 0.0};
    unsigned inside = measure(floor, top).count;
    while (inside > 1 && top - floor > 1) {
        Rank middle = floor + (top - floor) / 2;
        Measure upper = measure(middle, top), then{taken.count + upper.count, taken.mass + upper.mass};
        if (limits.have_room(then)) {
            taken = then, top = middle, inside -= upper.count;
        } else {
            floor = middle, inside = upper.count;
        }
    }
    return floor;
}

// The same of a whole row, of which each thread knows the best that it has: what these leave is a bound, since of
// all there is more. Above it is often so little that each thread has one.
template <typename Visit, typename RankOf, typename Weigh>
__device__ Rank cut_row(
    Visit visit, Candidate mine, RankOf rank_of, Weigh weigh, Rank floor, Rank top, Limits limits, Shared shared) {
    auto visit_mine = [&](auto take) { take(mine); };
    Rank bound = cut(visit_mine, rank_of, weigh, floor, top, limits, shared);
    if (threadIdx.x == 0) *shared.numbers = 0;
    __syncthreads();
    visit([&](Candidate candidate) {
        if (rank_of(candidate) <= bound) return;
        unsigned place = atomicAdd(shared.numbers, 1u);
        if (place < blockDim.x) shared.held[place] = candidate;
    });
    __syncthreads();
    unsigned count = *shared.numbers;
    __syncthreads();
    if (count > blockDim.x) return cut(visit, rank_of, weigh, bound, top, limits, shared);
    auto visit_held = [&](auto take) {
        if (threadIdx.x < count) take(shared.held[threadIdx.x]);
    };
    return cut(visit_held, rank_of, weigh, bound, top, limits, shared);
}

// Where the warp's part of a row begins and ends.
__device__ __forceinline__ void part_of_warp(int limit, int& first, int& end) {
    int warp = threadIdx.x / WARP_SIZE, warps = blockDim.x / WARP_SIZE;
    int part = (limit + warps * WARP_SIZE - 1) / (warps * WARP_SIZE) * WARP_SIZE;
    first = min(warp * part, limit), end = min(first + part, limit);
}

// The sum of all weights: `shared.masses` have those of the warps' parts.
template <typename Weight>
__device__ double sum_by_parts(Weight weight, int limit, Shared shared) {
    int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE, first, end;
    part_of_warp(limit, first, end);
    double sum = 0.0;
    for (int id = first + lane; id < end; id += WARP_SIZE) sum += weight(id);
    sum = warp_sum(sum);
    if (lane == 0) shared.masses[warp] = sum;
    __syncthreads();
    double total = 0.0;
    for (int i = 0; i < static_cast<int>(blockDim.x) / WARP_SIZE; i++) total += shared.masses[i];
    return total;
}

// The first id up to which the weights are more than `target`, known to the one warp that has it, whose other
// threads get the same; NO_ID for the other warps. Rounding may leave the target at the very end: then the last
// id that has any weight.
template <typename Weight>
__device__ unsigned find_token(Weight weight, double target, int limit, Shared shared) {
    int mine = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE, part = 0, first, end;
    double before = 0.0, sum = 0.0;
    for (int i = 0; i < static_cast<int>(blockDim.x) / WARP_SIZE && sum <= target; i++) {
        if (shared.masses[i] > 0.0) part = i, before = sum;
        sum += shared.masses[i];
    }
    if (part != mine) return NO_ID;
    part_of_warp(limit, first, end);
    unsigned last = 0;
    for (; first < end; first += WARP_SIZE) {
        unsigned id = first + lane;
        float its = static_cast<int>(id) < end ? weight(id) : 0.0f;
        double up_to = its;
#pragma unroll
        for (int step = 1; step < WARP_SIZE; step *= 2) {
            double lower = __shfl_up_sync(ALL_LANES, up_to, step);
            if (lane >= step) up_to += lower;
        }
        unsigned found = its > 0.0f && before + up_to > target ? id : NO_ID, weighty = its > 0.0f ? id : 0;
#pragma unroll
        for (int mask = WARP_SIZE / 2; mask > 0; mask /= 2) {
            found = min(found, __shfl_xor_sync(ALL_LANES, found, mask));
            weighty = max(weighty, __shfl_xor_sync(ALL_LANES, weighty, mask));
        }
        if (found != NO_ID) return found;
        last = max(last, weighty);
        before += __shfl_sync(ALL_LANES, up_to, WARP_SIZE - 1);
    }
    return last;
}

// A number in [0, 1): the first of the stream that the CPU draws from (`Stream` in `src/random.rs`).
__device__ __forceinline__ double first_draw(const unsigned* key, unsigned position) {
    unsigned words[4] = {0, 0, position, 0};
    philox(key[0], key[1], words);
    unsigned long long upper = words[0], lower = words[1];
    return static_cast<double>(upper << 21 | lower >> 11) * (1.0 / 9007199254740992.0);
}

// Changes scores by the rules for a row; whether there are any.
__device__ bool apply_rules(const Choices& how, int row, float* scores) {
    unsigned limit = how.limit;
    auto each = [&](int list, auto change) {
        unsigned first = row == 0 ? 0 : how.ends[3 * (row - 1) + list], end = how.ends[3 * row + list];
        for (unsigned i = first + threadIdx.x; i < end; i += blockDim.x) change(i);
        __syncthreads();
        return first < end;
    };
    auto bounded = [](float score) { return fminf(score, 1e30f); };
    bool any = each(0, [&](unsigned i) {
        unsigned id = how.penalised[i];
        if (id >= limit) return;
        float score = scores[id];
        scores[id] = bounded(score < 0.0f ? score * how.penalty : score / how.penalty);
    });
    any |= each(1, [&](unsigned i) {
        if (how.ruled_out[i] < limit) scores[how.ruled_out[i]] = -INFINITY;
    });
    any |= each(2, [&](unsigned i) {
        unsigned id = how.grown[2 * i];
        if (id >= limit || !(scores[id] > -INFINITY)) return;
        float size = fabsf(scores[id]), growth = __uint_as_float(how.grown[2 * i + 1]);
        // The growth may be infinite, and infinity times zero is no number.
        if (size > 0.0f) scores[id] = bounded(scores[id] + size * growth);
    });
    return any;
}

// The rows' tokens, in `chosen` and as the tokens of the next step, if there is one: those of its rows beyond
// `rows` are like the last.
extern "C" __global__ void __launch_bounds__(1024) choose_tokens(
    float* all_scores, int stride, Choices how, int rows, Chosen* chosen, unsigned* tokens, int filled_up) {
    DYNAMIC_SHARED(memory);
    Shared shared;
    shared.masses = reinterpret_cast<double*>(memory);
    shared.numbers = reinterpret_cast<unsigned*>(shared.masses + WARP_SIZE);
    shared.held = reinterpret_cast<Candidate*>(shared.numbers + WARP_SIZE);
    int row = blockIdx.x, limit = how.limit;
    float* scores = all_scores + static_cast<size_t>(how.from[row]) * stride;
    auto answer = [&](Chosen it) {
        chosen[row] = it;
        int last = tokens == nullptr ? 0 : row + 1 == rows ? filled_up : row + 1;
        for (int i = row; i < last; i++) tokens[i] = it.token;
    };
    if (how.given[row] != NO_ID) {
        if (threadIdx.x == 0) answer({how.given[row], 0.0f, 0.0f, 0});
        return;
    }
    auto visit = [&](auto take) {
        for (unsigned id = threadIdx.x; id < static_cast<unsigned>(limit); id += blockDim.x) {
            take(Candidate{scores[id], id});
        }
    };
    Candidate mine;
    unsigned broken = 0;
    auto find_best = [&] {
        mine = {-INFINITY, NO_ID};
        visit([&](Candidate candidate) {
            if (!(candidate.score < INFINITY)) {
                broken = 1;
            } else if (mine.id == NO_ID || candidate.score > mine.score) {
                mine = candidate;
            }
        });
        return block_best(mine, shared);
    };
    Candidate best = find_best();
    broken = block_sum(broken, shared.numbers) > 0;
    if (apply_rules(how, row, scores)) best = find_best();
    if (broken || !(best.score > -INFINITY)) {
        // The host refuses to go on.
        if (threadIdx.x == 0) answer({0, -INFINITY, 0.0f, broken});
        return;
    }
    float temperature = how.keys == nullptr ? 1.0f : how.temperature;
    auto weigh = [&](float score) { return expf((score - best.score) / temperature); };
    auto weigh_candidate = [&](Candidate candidate) { return weigh(candidate.score); };
    Rank floor = 0;
    auto whole_rank = [](Candidate candidate) { return rank(candidate.score, candidate.id); };
    auto weight = [&](int id) {
        float score = scores[id];
        return rank(score, id) > floor ? weigh(score) : 0.0f;
    };
    constexpr unsigned ANY = 0xffffffffu;
    if (how.keys != nullptr) {
        unsigned top_k = how.top_k > 0 ? how.top_k : ANY;
        bool has_top_p = how.top_p < 1.0f;
        auto mass = [&] {
            double total = has_top_p ? sum_by_parts(weight, limit, shared) : INFINITY;
            __syncthreads();
            return has_top_p ? how.top_p * total : total;
        };
        if (how.in_turn && top_k != ANY) {
            // Equals of the last that is kept are kept with it.
            auto score_rank = [&](Candidate candidate) { return whole_rank(candidate) >> 32; };
            Rank top = score_rank(best);
            Rank bound = cut_row(
                visit, mine, score_rank, weigh_candidate, 0, top, {top_k, INFINITY, false}, shared);
            floor = (bound + 1 << 32) - 1;
            top_k = ANY;
        }
        if (top_k != ANY || has_top_p) {
            Limits limits{top_k, mass(), !how.in_turn};
            floor = cut_row(visit, mine, whole_rank, weigh_candidate, floor, whole_rank(best), limits, shared);
        }
    }
    auto left = [&](int id) {
        float its = weight(id);
        return its < how.min_p ? 0.0f : its;
    };
    bool has_total = how.keys != nullptr || how.log_probability;
    double total = has_total ? sum_by_parts(left, limit, shared) : 1.0;
    if (how.keys == nullptr) {
        if (threadIdx.x == 0) answer({best.id, best.score, -logf(static_cast<float>(total)), 0});
        return;
    }
    double target = first_draw(how.keys + 2 * row, how.positions[row]) * total;
    unsigned token = find_token(left, target, limit, shared);
    if (token != NO_ID && threadIdx.x % WARP_SIZE == 0) {
        float log_weight = (scores[token] - best.score) / temperature;
        answer({token, best.score, log_weight - static_cast<float>(log(total)), 0});
    }
}
