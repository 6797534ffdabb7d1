// Products of small matrices by a warp, and what brings matrices to it: instructions of compute capability 8.0.
// Which thread holds which element is NVIDIA's PTX ISA's, "Matrix fragments for mma.m16n8k16".
#pragma once

#include "numbers.h"

#ifndef EMULATE
__device__ __forceinline__ unsigned shared_address(const void* shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}
#endif

// 2^x, to 2 units in the last place; of negative infinity 0, as of all x below -126.
__device__ __forceinline__ float power_of_2(float x) {
#ifdef EMULATE
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// 1 / x, to 1 unit in the last place.
__device__ __forceinline__ float reciprocal(float x) {
#ifdef EMULATE
    return 1.0f / x;
#else
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// sums [16, 8] += a [16, 16] b [16, 8]
template <typename T>
__device__ __forceinline__ void multiply(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]);

#ifdef EMULATE
#define MULTIPLY(type, name)                                                                           \
    template <>                                                                                        \
    inline void multiply<type>(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {     \
        emulated::multiply(sums, a, b, [](uint16_t bits) { return widen(type{bits}); });               \
    }
#else
#define MULTIPLY(type, name)                                                                           \
    template <>                                                                                        \
    __device__ __forceinline__ void multiply<type>(                                                    \
        float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {                            \
        asm volatile(                                                                                  \
            "mma.sync.aligned.m16n8k16.row.col.f32." name "." name ".f32 {%0, %1, %2, %3}, "           \
            "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                            \
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                               \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                       \
    }
#endif
MULTIPLY(float16, "f16")
MULTIPLY(bfloat16, "bf16")

// Four matrices [8, 8] of 16 bits from shared memory: lanes 8 i to 8 i + 7 point to the rows of matrix i, each
// at a multiple of 16 bytes. A thread gets of each two neighbours of a row.
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], const void* row) {
#ifdef EMULATE
    emulated::load_matrices(to, row, false);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}

// The same matrices transposed: of each two neighbours of a column.
__device__ __forceinline__ void load_transposed(unsigned (&to)[4], const void* row) {
#ifdef EMULATE
    emulated::load_matrices(to, row, true);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}

// Brings 16 bytes to shared memory, or zeros if they are not `there`, by the time that this thread waits for its
// copies.
__device__ __forceinline__ void copy_later(void* to, const void* from, bool there) {
#ifdef EMULATE
    emulated::copy_later(to, there ? from : nullptr);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
#endif
}

__device__ __forceinline__ void wait_for_copies() {
#ifdef EMULATE
    emulated::wait_for_copies();
#else
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}
