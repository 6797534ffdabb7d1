// What kernels need of CUDA, on the CPU: so that they can run without a card.
//
// The threads of a block are fibers that take turns: each runs until it waits for its warp or its block.
// Blocks run one after the other. Threads that wait for each other in vain end the process.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static
#ifndef __global__
#define __global__
#endif

struct dim3 {
    unsigned x, y, z;
};
struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

namespace emulated {

constexpr unsigned WARP = 32;
constexpr size_t STACK = 64 << 10;

enum class Waits { NOTHING, WARP, BLOCK, DONE };

struct Fiber {
    ucontext_t first;
    jmp_buf at;
    std::vector<char> stack;
    bool begun = false;
    Waits waits = Waits::DONE;
};

// What a kernel does with its arguments, and whether its threads are known never to wait.
struct Work {
    std::function<void()> body;
    bool* waits;
};

inline jmp_buf scheduler;
inline std::vector<std::unique_ptr<Fiber>> fibers;
inline const std::function<void()>* body;
inline unsigned current;
inline bool is_direct;
inline bool* has_waited;
inline std::vector<uint64_t> exchanged;
inline std::vector<char> dynamic_shared;
inline dim3 grid, block, block_index, thread_index;

[[noreturn]] inline void fail(const char* why) {
    std::fprintf(stderr, "emulated card: %s\n", why);
    std::abort();
}

inline void to_scheduler(Waits waits) {
    Fiber& fiber = *fibers[current];
    fiber.waits = waits;
    if (_setjmp(fiber.at) == 0) _longjmp(scheduler, 1);
}

inline void wait(Waits waits) {
    if (is_direct) fail("a kernel waits that did not wait before");
    *has_waited = true;
    to_scheduler(waits);
}

// A fiber serves one thread after the other.
inline void enter() {
    for (;;) {
        (*body)();
        to_scheduler(Waits::DONE);
    }
}

inline void set_thread(unsigned i) {
    current = i;
    thread_index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
}

inline void resume(unsigned i) {
    set_thread(i);
    Fiber& fiber = *fibers[i];
    if (_setjmp(scheduler) != 0) return;
    if (fiber.begun) _longjmp(fiber.at, 1);
    fiber.begun = true;
    fiber.stack.resize(STACK);
    getcontext(&fiber.first);
    fiber.first.uc_stack.ss_sp = fiber.stack.data();
    fiber.first.uc_stack.ss_size = STACK;
    fiber.first.uc_link = nullptr;
    makecontext(&fiber.first, enter, 0);
    setcontext(&fiber.first);
}

// Frees those of `first..last` that wait for each other, if all that have not ended do.
inline bool release(unsigned first, unsigned last, Waits waits) {
    bool any = false;
    for (unsigned i = first; i < last; i++) {
        if (fibers[i]->waits != waits && fibers[i]->waits != Waits::DONE) return false;
        any = any || fibers[i]->waits == waits;
    }
    for (unsigned i = first; any && i < last; i++) {
        if (fibers[i]->waits == waits) fibers[i]->waits = Waits::NOTHING;
    }
    return any;
}

inline void run_block() {
    unsigned count = block.x * block.y * block.z;
    while (fibers.size() < count) fibers.push_back(std::make_unique<Fiber>());
    exchanged.resize(fibers.size());
    for (unsigned i = 0; i < count; i++) fibers[i]->waits = Waits::NOTHING;
    for (unsigned ended = 0; ended < count;) {
        bool any = false;
        for (unsigned i = 0; i < count; i++) {
            if (fibers[i]->waits != Waits::NOTHING) continue;
            resume(i);
            any = true;
            if (fibers[i]->waits == Waits::DONE) ended++;
        }
        for (unsigned i = 0; i < count; i += WARP) {
            unsigned last = i + WARP < count ? i + WARP : count;
            any = release(i, last, Waits::WARP) || any;
        }
        any = release(0, count, Waits::BLOCK) || any;
        if (!any) fail("threads of a block wait for each other in vain");
    }
}

inline void run_directly() {
    for (unsigned i = 0; i < block.x * block.y * block.z; i++) {
        set_thread(i);
        (*body)();
    }
}

// Runs a kernel. Whether its threads wait is found out the first time.
inline void launch(dim3 blocks, dim3 threads, size_t shared, const Work& work) {
    static std::map<bool*, bool> known;
    grid = blocks;
    block = threads;
    body = &work.body;
    has_waited = work.waits;
    is_direct = known.count(work.waits) && !*work.waits;
    dynamic_shared.assign(shared + 16, 0x55);
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                block_index = {x, y, z};
                is_direct ? run_directly() : run_block();
            }
    known[work.waits] = true;
}

template <typename T>
T exchange(T value, unsigned from_lane) {
    static_assert(sizeof(T) <= 8);
    std::memcpy(&exchanged[current], &value, sizeof(T));
    wait(Waits::WARP);
    unsigned from = current / WARP * WARP + from_lane % WARP;
    T other;
    std::memcpy(&other, &exchanged[from < exchanged.size() ? from : current], sizeof(T));
    wait(Waits::WARP);
    return other;
}

// All kernels by their names: from the arguments as the driver gets them to what a launch runs.
using Pack = std::function<Work(void**)>;
inline std::map<std::string, Pack>& kernels() {
    static std::map<std::string, Pack> all;
    return all;
}

template <typename... A, size_t... I>
std::tuple<A...> taken(void** arguments, std::index_sequence<I...>) {
    return {*static_cast<A*>(arguments[I])...};
}

template <typename... A>
int add(const char* name, void (*kernel)(A...)) {
    auto waits = std::make_shared<bool>(false);
    kernels()[name] = [kernel, waits](void** arguments) {
        auto values = taken<A...>(arguments, std::index_sequence_for<A...>());
        return Work{[kernel, values] { std::apply(kernel, values); }, waits.get()};
    };
    return 0;
}

}  // namespace emulated

#define threadIdx (emulated::thread_index)
#define blockIdx (emulated::block_index)
#define blockDim (emulated::block)
#define gridDim (emulated::grid)
#define DYNAMIC_SHARED(name) float* name = reinterpret_cast<float*>(emulated::dynamic_shared.data())

inline void __syncthreads() { emulated::wait(emulated::Waits::BLOCK); }
inline void __syncwarp() { emulated::wait(emulated::Waits::WARP); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
    return emulated::exchange(value, (emulated::current % emulated::WARP) ^ mask);
}

template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned lanes, int = 32) {
    unsigned lane = emulated::current % emulated::WARP;
    return emulated::exchange(value, lane < lanes ? lane : lane - lanes);
}

template <typename T>
T __shfl_sync(unsigned, T value, int lane, int = 32) {
    return emulated::exchange(value, lane);
}

// Threads take turns only where they wait.
inline unsigned atomicAdd(unsigned* to, unsigned number) {
    unsigned before = *to;
    *to += number;
    return before;
}

template <typename T>
T __ldg(const T* from) {
    return *from;
}

// Four products of bytes, and their sum.
inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 32; i += 8) sum += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
    return sum;
}

inline int __float2int_rn(float x) { return x == x ? static_cast<int>(std::nearbyint(x)) : 0; }

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

template <typename A, typename B>
std::common_type_t<A, B> min(A a, B b) {
    return b < a ? b : a;
}

template <typename A, typename B>
std::common_type_t<A, B> max(A a, B b) {
    return a < b ? b : a;
}

#include "emulate_tensor_cores.h"
