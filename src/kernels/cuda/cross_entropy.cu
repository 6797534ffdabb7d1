// The cross entropy of rows of logits and its slopes, for training. A block has a row.
#include "numbers.h"

struct RowLoss {
    float nll;
    float log_sum;
    float spread;      // the mean of nll over all classes
    unsigned correct;  // whether the target is the first of the largest
};

extern "C" __global__ void __launch_bounds__(256) cross_entropy_forward(
    const float* logits, int classes, const unsigned* targets, RowLoss* losses) {
    __shared__ float shared[WARP_SIZE];
    __shared__ unsigned counts[WARP_SIZE];
    const float* row = logits + static_cast<size_t>(blockIdx.x) * classes;
    unsigned target = targets[blockIdx.x];
    float largest = -INFINITY, sum = 0.0f, plain = 0.0f;
    for (int i = threadIdx.x; i < classes; i += blockDim.x) largest = fmaxf(largest, row[i]), plain += row[i];
    largest = block_max(largest, shared);
    unsigned before = 0;
    for (int i = threadIdx.x; i < classes; i += blockDim.x) {
        sum += expf(row[i] - largest);
        before += row[i] == largest && static_cast<unsigned>(i) < target;
    }
    sum = block_sum(sum, shared), plain = block_sum(plain, shared), before = block_sum(before, counts);
    if (threadIdx.x > 0) return;
    float log_sum = largest + logf(sum);
    losses[blockIdx.x] = {
        log_sum - row[target], log_sum, log_sum - plain / classes, row[target] == largest && before == 0};
}

// slopes = (softmax(logits) - (1 - smoothing) onehot(target) - smoothing / classes) * scales[row] * dloss
extern "C" __global__ void __launch_bounds__(256) cross_entropy_backward(
    const float* logits, int classes, const unsigned* targets, const float* scales, float smoothing,
    const RowLoss* losses, const float* dloss, float* slopes) {
    size_t start = static_cast<size_t>(blockIdx.x) * classes;
    unsigned target = targets[blockIdx.x];
    float scale = scales[blockIdx.x] * *dloss, log_sum = losses[blockIdx.x].log_sum;
    float share = smoothing * scale / classes;
    for (int i = threadIdx.x; i < classes; i += blockDim.x) {
        float logit = logits[start + i] - log_sum;
        // What is left of 1 where the target is nearly certain.
        float slope = static_cast<unsigned>(i) == target ? (expm1f(logit) + smoothing) * scale : expf(logit) * scale;
        slopes[start + i] = scale == 0.0f ? 0.0f : slope - share;
    }
}
