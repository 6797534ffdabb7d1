// Rows of a table by their numbers, for training, and the way back.
#include "numbers.h"

// out[i] = table[ids[i]], or zeros where the table has no such row: [count, width] of [rows, width].
extern "C" __global__ void __launch_bounds__(256) select_rows(
    const float* table, const unsigned* ids, unsigned rows, int width, float* out) {
    unsigned id = ids[blockIdx.x];
    float* to = out + static_cast<size_t>(blockIdx.x) * width;
    const float* from = table + static_cast<size_t>(id) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] = id < rows ? from[i] : 0.0f;
}

// dtable[row] = the sum of those rows of dout that were selected from it: `order[ends[row - 1]..ends[row]]`, always
// in the same order.
extern "C" __global__ void __launch_bounds__(256) add_rows(
    const float* dout, const unsigned* ends, const unsigned* order, int width, float* dtable) {
    unsigned row = blockIdx.x, first = row == 0 ? 0 : ends[row - 1], end = ends[row];
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float sum = 0.0f;
        for (unsigned n = first; n < end; n++) sum += dout[static_cast<size_t>(order[n]) * width + i];
        dtable[static_cast<size_t>(row) * width + i] = sum;
    }
}
