// The weights of attention from its scores [sequences, heads, queries, keys], for training, and the way back. The
// sequences lie side by side, filled up to the longest. A warp has a row.
#include "dropout.h"

struct Weights {
    const unsigned* sequences;  // [sequences, 3]: the first row of the queries, how many queries, and how many keys
    const unsigned* visible;    // [sequences, keys]: whether a key may be seen; none: all may
    Draw draw;                  // of dropout; a factor of 1 drops nothing
    int heads;
    int queries;
    int keys;
    float scale;           // of the scores
    unsigned causal;       // a query sees keys up to its own place, counted from the end
    unsigned mean_of_all;  // a query that sees no key gets the mean of all values, else nothing
};

// A row of the weights, and what it sees.
struct WeightsRow {
    size_t start;
    unsigned row;  // of all queries
    int head;
    int keys;            // of its sequence; none for a row that fills up
    int seen;            // how many of these it may see
    const unsigned* visible;

    __device__ WeightsRow(const Weights& all, int place) {
        start = static_cast<size_t>(place) * all.keys;
        int query = place % all.queries, sequence = place / all.queries / all.heads;
        const unsigned* of = all.sequences + 3 * sequence;
        head = place / all.queries % all.heads, row = of[0] + query;
        keys = query < static_cast<int>(of[1]) ? of[2] : 0;
        int last = query + keys - static_cast<int>(of[1]);
        seen = all.causal ? max(min(last + 1, keys), 0) : keys;
        visible = all.visible == nullptr ? nullptr : all.visible + static_cast<size_t>(sequence) * all.keys;
    }

    __device__ bool sees(int key) const { return key < seen && (visible == nullptr || visible[key] != 0); }

    // Calls `work` with the keys of a lane, and the factors of dropout.
    template <typename Work>
    __device__ void visit(const Weights& all, bool with_factors, Work work) const {
        for (int j = 4 * (threadIdx.x % WARP_SIZE); j < all.keys; j += 4 * WARP_SIZE) {
            float factors[4] = {1.0f, 1.0f, 1.0f, 1.0f};
            if (with_factors && all.draw.threshold > 0) {
                factors_of(all.draw, element_of_weight(row, all.heads, head, j) / 4, factors);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (j + i < all.keys) work(j + i, factors[i]);
            }
        }
    }
};

__device__ __forceinline__ int row_of_warp() {
    return blockIdx.x * (blockDim.x / WARP_SIZE) + threadIdx.x / WARP_SIZE;
}

// weights = dropout(softmax(scale * scores)), and of each row the logarithm of the sum of the exponentials; it is
// infinite where nothing is seen.
extern "C" __global__ void __launch_bounds__(256) weights_forward(
    const float* scores, Weights all, int rows, float* weights, float* log_sums) {
    int place = row_of_warp();
    if (place >= rows) return;
    WeightsRow row(all, place);
    const float* mine = scores + row.start;
    float largest = -INFINITY, sum = 0.0f, sees = 0.0f;
    row.visit(all, false, [&](int key, float) {
        if (row.sees(key)) largest = fmaxf(largest, all.scale * mine[key]), sees = 1.0f;
    });
    largest = warp_max(largest);
    // By what it may see: scores that are no numbers make weights that are none.
    bool sees_none = warp_max(sees) == 0.0f;
    row.visit(all, false, [&](int key, float) {
        if (row.sees(key)) sum += expf(all.scale * mine[key] - largest);
    });
    sum = warp_sum(sum);
    float share = sees_none && all.mean_of_all && row.keys > 0 ? 1.0f / row.keys : 0.0f;
    row.visit(all, true, [&](int key, float factor) {
        float weight = row.sees(key) ? expf(all.scale * mine[key] - largest) / sum * factor : 0.0f;
        weights[row.start + key] = sees_none ? (key < row.keys ? share : 0.0f) : weight;
    });
    if (threadIdx.x % WARP_SIZE == 0) log_sums[place] = sees_none ? INFINITY : largest + logf(sum);
}

// The slopes of the scores, from those of the weights.
extern "C" __global__ void __launch_bounds__(256) weights_backward(
    const float* scores, Weights all, int rows, const float* log_sums, const float* dweights, float* dscores) {
    int place = row_of_warp();
    if (place >= rows) return;
    WeightsRow row(all, place);
    const float* mine = scores + row.start;
    const float* slopes = dweights + row.start;
    float log_sum = log_sums[place], along = 0.0f;
    bool sees_none = log_sum == INFINITY;
    auto weight = [&](int key) {
        return row.sees(key) && !sees_none ? expf(all.scale * mine[key] - log_sum) : 0.0f;
    };
    row.visit(all, true, [&](int key, float factor) { along += weight(key) * slopes[key] * factor; });
    along = warp_sum(along);
    row.visit(all, true, [&](int key, float factor) {
        dscores[row.start + key] = all.scale * weight(key) * (slopes[key] * factor - along);
    });
}
