// The linear layers of a launch, and what may follow them.
#pragma once

#include "numbers.h"

// A layer over the inputs that all layers of a launch share.
struct Layer {
    const void* weight;   // [outputs, inputs]
    const float* scales;  // [outputs], of int8
    const float* bias;    // [outputs], or none
    float* out;           // [rows, outputs]
    int outputs;
};

// Up to three layers side by side (queries, keys and values): blockIdx.y says which.
struct Layers {
    Layer each[3];
};

__device__ __forceinline__ float gelu(float x) {
    return x * (0.5f + 0.5f * erff(x * 0.70710678118654752f));
}
