// The update rules of the optimizers, elementwise (`src/kernels/optimizer.rs` has the formulas and the twins).
#include "numbers.h"

// Learning rate, weight decay times that, factor and largest element of the gradient.
struct Common {
    float learning_rate, decay, scale, limit;
};
// What a rule needs besides.
struct Constants {
    float a, b, c, d;
};

__device__ __forceinline__ float clipped(const Common& common, float gradient) {
    return fminf(fmaxf(gradient * common.scale, -common.limit), common.limit);
}

__device__ __forceinline__ float decayed(const Common& common, float weight) {
    return weight - weight * common.decay;
}

#define EACH(i)                                                                                         \
    unsigned long long i = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x;       \
    if (i >= count) return;

// Constants: alpha, 1 - beta_1, 1 - beta_2, epsilon; `largest` (AMSGrad) or none.
extern "C" __global__ void __launch_bounds__(256) adam(
    float* w, const float* g, float* m, float* v, float* largest, unsigned long long count, Common common,
    Constants of) {
    EACH(i)
    float gradient = clipped(common, g[i]);
    float mean = m[i] + (gradient - m[i]) * of.b;
    float square = v[i] + (gradient * gradient - v[i]) * of.c;
    m[i] = mean, v[i] = square;
    if (largest != nullptr) largest[i] = square = fmaxf(largest[i], square);
    w[i] = decayed(common, w[i]) - mean * of.a / (sqrtf(square) + of.d);
}

// Constants: momentum, 1 with Nesterov; `m` or none.
extern "C" __global__ void __launch_bounds__(256) sgd(
    float* w, const float* g, float* m, float*, float*, unsigned long long count, Common common, Constants of) {
    EACH(i)
    float pull = clipped(common, g[i]) * common.learning_rate;
    float movement = -pull;
    if (m != nullptr) {
        m[i] = m[i] * of.a - pull;
        movement = of.b != 0.0f ? m[i] * of.a - pull : m[i];
    }
    w[i] = decayed(common, w[i]) + movement;
}

// Constants: rho, 1 - rho, epsilon, momentum; `m` and `average` or none.
extern "C" __global__ void __launch_bounds__(256) rmsprop(
    float* w, const float* g, float* v, float* m, float* average, unsigned long long count, Common common,
    Constants of) {
    EACH(i)
    float gradient = clipped(common, g[i]), centre = 0.0f;
    if (average != nullptr) average[i] = centre = of.a * average[i] + of.b * gradient;
    v[i] = of.a * v[i] + of.b * (gradient * gradient);
    float movement = common.learning_rate * gradient / sqrtf(v[i] - centre * centre + of.c);
    if (m != nullptr) m[i] = movement = of.d * m[i] + movement;
    w[i] = decayed(common, w[i]) - movement;
}

// Constants: beta_1, beta_2.
extern "C" __global__ void __launch_bounds__(256) lion(
    float* w, const float* g, float* m, float*, float*, unsigned long long count, Common common, Constants of) {
    EACH(i)
    float gradient = clipped(common, g[i]);
    float pull = m[i] * of.a + gradient * (1.0f - of.a);
    float sign = pull > 0.0f ? 1.0f : pull < 0.0f ? -1.0f : 0.0f;
    w[i] = decayed(common, w[i]) - common.learning_rate * sign;
    m[i] = m[i] * of.b + gradient * (1.0f - of.b);
}

// to[i] = keep * to[i] + add * from[i]
extern "C" __global__ void __launch_bounds__(256) blend(
    float* to, const float* from, unsigned long long count, float keep, float add) {
    EACH(i)
    to[i] = keep * to[i] + add * from[i];
}

// What each block's share of the squares sums up to.
extern "C" __global__ void __launch_bounds__(256) sum_of_squares(
    const float* x, unsigned long long count, double* sums) {
    __shared__ double shared[WARP_SIZE];
    double sum = 0.0;
    unsigned long long step = static_cast<unsigned long long>(gridDim.x) * blockDim.x;
    for (unsigned long long i = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x;
         i < count; i += step) {
        sum += static_cast<double>(x[i]) * x[i];
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
