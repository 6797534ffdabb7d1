// The best of each row of scores, without the others: ids and scores, best first, and of equals the lower
// id first; and the logarithm of the sum of all exponentials.
//
// Two launches: blocks find the best of a part of a row each, then one block a row finds the best of these.
#include "best.h"

__device__ __forceinline__ bool better(float score, unsigned id, float than, unsigned other) {
    return score > than || (score == than && id < other);
}

// The best candidate of a block, known to all threads. `scores` and `ids` hold one a warp.
__device__ __forceinline__ Candidate block_best(float score, unsigned id, float* scores, unsigned* ids) {
#pragma unroll
    for (int mask = WARP_SIZE / 2; mask > 0; mask /= 2) {
        float other = __shfl_xor_sync(ALL_LANES, score, mask);
        unsigned other_id = __shfl_xor_sync(ALL_LANES, id, mask);
        if (better(other, other_id, score, id)) score = other, id = other_id;
    }
    int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    if (lane == 0) scores[warp] = score, ids[warp] = id;
    __syncthreads();
    for (int i = 0; i < static_cast<int>(blockDim.x) / WARP_SIZE; i++) {
        if (better(scores[i], ids[i], score, id)) score = scores[i], id = ids[i];
    }
    __syncthreads();
    return {score, id};
}

// The `count` best of `length` candidates in shared memory, which are used up. `take(n, candidate)` gets
// them, the best first; where there are too few the rest has no id.
template <typename Take>
__device__ __forceinline__ void choose(
    float* scores, const unsigned* ids, unsigned first, int length, int count, float* warp_scores,
    unsigned* warp_ids, Take take) {
    for (int n = 0; n < count; n++) {
        float score = -INFINITY;
        unsigned id = NO_ID, place = NO_ID;
        for (int i = threadIdx.x; i < length; i += blockDim.x) {
            unsigned here = ids == nullptr ? first + i : ids[i];
            // What has been taken is no number any more.
            if (scores[i] == scores[i] && here != NO_ID && (place == NO_ID || better(scores[i], here, score, id))) {
                score = scores[i], id = here, place = i;
            }
        }
        Candidate best = block_best(score, id, warp_scores, warp_ids);
        if (place != NO_ID && best.id == id) scores[place] = NAN;
        __syncthreads();
        if (threadIdx.x == 0) take(n, best);
    }
}

// Part `blockIdx.x` of row `blockIdx.y` of `scores [rows, stride]`, of which the first `limit` count:
// `count` candidates, and the part's largest score and its sum of exponentials below that, which a score that
// is NaN or positive infinity makes NaN.
extern "C" __global__ void __launch_bounds__(256) best_of_part(
    const float* scores, int stride, int limit, int part, int count, Candidate* candidates, float* sums) {
    DYNAMIC_SHARED(here);
    float* warp_scores = here + part;
    unsigned* warp_ids = reinterpret_cast<unsigned*>(warp_scores + WARP_SIZE);
    int first = blockIdx.x * part, length = min(part, limit - first);
    const float* row = scores + static_cast<size_t>(blockIdx.y) * stride + first;
    float largest = -INFINITY, sum = 0.0f;
    for (int i = threadIdx.x; i < length; i += blockDim.x) {
        float score = row[i];
        if (!(score < INFINITY)) sum = NAN;
        here[i] = score;
        largest = fmaxf(largest, score);
    }
    largest = block_max(largest, warp_scores);
    if (largest > -INFINITY) {
        for (int i = threadIdx.x; i < length; i += blockDim.x) sum += expf(here[i] - largest);
    }
    sum = block_sum(sum, warp_scores);
    int parts = gridDim.x;
    size_t place = static_cast<size_t>(blockIdx.y) * parts + blockIdx.x;
    if (threadIdx.x == 0) sums[2 * place] = largest, sums[2 * place + 1] = sum;
    choose(here, nullptr, first, length, count, warp_scores, warp_ids,
           [&](int n, Candidate best) { candidates[place * count + n] = best; });
}

// The best `count` of a row's `parts * count` candidates, and the logarithm of the sum over the row.
extern "C" __global__ void __launch_bounds__(256) best_of_row(
    const Candidate* candidates, const float* sums, int parts, int count, Candidate* best, float* log_sums) {
    DYNAMIC_SHARED(chosen_before);
    float* here = chosen_before;
    int length = parts * count;
    unsigned* ids = reinterpret_cast<unsigned*>(here + length);
    float* warp_scores = reinterpret_cast<float*>(ids + length);
    unsigned* warp_ids = reinterpret_cast<unsigned*>(warp_scores + WARP_SIZE);
    const Candidate* mine = candidates + static_cast<size_t>(blockIdx.x) * length;
    for (int i = threadIdx.x; i < length; i += blockDim.x) here[i] = mine[i].score, ids[i] = mine[i].id;
    const float* parts_of_row = sums + static_cast<size_t>(blockIdx.x) * 2 * parts;
    float largest = -INFINITY, sum = 0.0f;
    for (int i = threadIdx.x; i < parts; i += blockDim.x) largest = fmaxf(largest, parts_of_row[2 * i]);
    largest = block_max(largest, warp_scores);
    for (int i = threadIdx.x; i < parts; i += blockDim.x) {
        if (parts_of_row[2 * i] > -INFINITY || parts_of_row[2 * i + 1] != 0.0f) {
            sum += parts_of_row[2 * i + 1] * expf(parts_of_row[2 * i] - largest);
        }
    }
    sum = block_sum(sum, warp_scores);
    if (threadIdx.x == 0) log_sums[blockIdx.x] = largest + logf(sum);
    choose(here, ids, 0, length, count, warp_scores, warp_ids,
           [&](int n, Candidate chosen) { best[blockIdx.x * count + n] = chosen; });
}
