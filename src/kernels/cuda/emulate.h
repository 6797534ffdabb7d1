// What a kernel needs of CUDA, on the CPU: so that its results can be tested without a card.
//
// The threads of a block are fibers that take turns: each runs until it waits for its block or its warp.
// Blocks run one after the other.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
    unsigned x, y, z;
};
struct float4 {
    float x, y, z, w;
};
struct uint4 {
    unsigned x, y, z, w;
};

namespace emulated {

constexpr int WARP = 32;
constexpr size_t STACK = 64 << 10;

struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    bool done = false;
};

inline ucontext_t scheduler;
inline std::vector<Fiber> fibers;
inline std::function<void()> body;
inline unsigned current;
inline std::vector<float> exchanged;
inline std::vector<char> dynamic_shared;
inline dim3 grid, block, block_index;

inline dim3 thread_index() {
    return {current % block.x, current / block.x % block.y, current / (block.x * block.y)};
}

// Lets all others come this far.
inline void wait() { swapcontext(&fibers[current].context, &scheduler); }

inline void enter() {
    body();
    fibers[current].done = true;
}

// One block: every fiber has its turn until all have ended. They wait equally often, as CUDA asks.
inline void run_block() {
    unsigned count = block.x * block.y * block.z;
    fibers.resize(count);
    exchanged.assign(count, 0.0f);
    for (unsigned i = 0; i < count; i++) {
        Fiber& fiber = fibers[i];
        fiber.done = false;
        fiber.stack.resize(STACK);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, enter, 0);
    }
    for (bool any = true; any;) {
        any = false;
        for (current = 0; current < count; current++) {
            if (!fibers[current].done) {
                swapcontext(&scheduler, &fibers[current].context);
                any = true;
            }
        }
    }
}

inline void launch(dim3 blocks, dim3 threads, size_t shared, std::function<void()> kernel) {
    grid = blocks;
    block = threads;
    body = kernel;
    dynamic_shared.assign(shared, 0x55);
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                block_index = {x, y, z};
                run_block();
            }
}

template <typename T>
T exchange(T value, unsigned from_lane) {
    static_assert(sizeof(T) == 4);
    std::memcpy(&exchanged[current], &value, 4);
    wait();
    unsigned from = current / WARP * WARP + from_lane % WARP;
    T other;
    std::memcpy(&other, &exchanged[from < exchanged.size() ? from : current], 4);
    wait();
    return other;
}

}  // namespace emulated

#define threadIdx (emulated::thread_index())
#define blockIdx (emulated::block_index)
#define blockDim (emulated::block)
#define gridDim (emulated::grid)
#define DYNAMIC_SHARED(name) float* name = reinterpret_cast<float*>(emulated::dynamic_shared.data())

inline void __syncthreads() { emulated::wait(); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulated::exchange(value, (emulated::current % emulated::WARP) ^ mask);
}

template <typename T>
T __ldg(const T* from) {
    return *from;
}

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline int min(int a, int b) { return a < b ? a : b; }

// A kernel's launch as a function that a test can call.
#define KERNEL(name, parameters, arguments)                                                            \
    extern "C" void emulate_##name(dim3 grid, dim3 block, size_t shared, EXPAND parameters) {          \
        emulated::launch(grid, block, shared, [&] { name arguments; });                                \
    }
#define EXPAND(...) __VA_ARGS__
