// The numbers that weights and caches are kept in, and what threads of a warp and of a block do together.
#pragma once

#ifdef EMULATE
#include "emulate.h"
#else
#include <cstdint>
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) float name[]
#endif

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int WARP_SIZE = 32;

// bfloat16 and float16 as their bits, so that one source serves card and emulation.
struct bfloat16 {
    uint16_t bits;
};
struct float16 {
    uint16_t bits;
};

// float32 that products round to a number of 16 bits.
template <typename Half>
struct mixed {
    float value;
};
using mixed_bfloat16 = mixed<bfloat16>;
using mixed_float16 = mixed<float16>;

__device__ __forceinline__ float widen(float x) { return x; }

__device__ __forceinline__ float widen(bfloat16 x) {
    return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}

__device__ __forceinline__ float widen(float16 x) {
#ifdef EMULATE
    unsigned sign = (x.bits & 0x8000u) << 16, exponent = x.bits >> 10 & 31u, rest = x.bits & 0x3ffu;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | rest << 13);
    if (exponent != 0) return __uint_as_float(sign | (exponent + 112) << 23 | rest << 13);
    float small = static_cast<float>(rest) * 5.9604644775390625e-8f;
    return sign ? -small : small;
#else
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
#endif
}

// The nearest bfloat16, ties to even.
__device__ __forceinline__ bfloat16 to_bfloat16(float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
    return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

__device__ __forceinline__ float16 to_float16(float x) {
#ifdef EMULATE
    unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
    if (size >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
    if (size < 0x38800000u) {
        float steps = __uint_as_float(size) * 16777216.0f;
        return {static_cast<uint16_t>(sign | static_cast<unsigned>(std::nearbyint(steps)))};
    }
    unsigned rounded = size + 0xfffu + (size >> 13 & 1u);
    return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
#else
    uint16_t y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return {y};
#endif
}

template <typename T>
__device__ __forceinline__ T narrow(float x);
template <>
__device__ __forceinline__ float narrow<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ bfloat16 narrow<bfloat16>(float x) {
    return to_bfloat16(x);
}
template <>
__device__ __forceinline__ float16 narrow<float16>(float x) {
    return to_float16(x);
}

template <typename Half>
__device__ __forceinline__ float widen(mixed<Half> x) {
    return widen(narrow<Half>(x.value));
}

// An input of a product as weights of type T take it: bfloat16 rounds inputs too, as on the CPU.
template <typename T>
__device__ __forceinline__ float as_input(float x) {
    return x;
}
template <>
__device__ __forceinline__ float as_input<bfloat16>(float x) {
    return widen(to_bfloat16(x));
}

template <>
__device__ __forceinline__ float as_input<mixed_bfloat16>(float x) {
    return widen(to_bfloat16(x));
}

// Eight neighbours of an array, which begins at a multiple of 16 bytes.
__device__ __forceinline__ void load8(const float* from, float (&to)[8]) {
    const float4* parts = reinterpret_cast<const float4*>(from);
    float4 a = __ldg(parts), b = __ldg(parts + 1);
    to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
    to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}

template <typename Half>
__device__ __forceinline__ void load8(const mixed<Half>* from, float (&to)[8]) {
    load8(reinterpret_cast<const float*>(from), to);
#pragma unroll
    for (int i = 0; i < 8; i++) to[i] = widen(mixed<Half>{to[i]});
}

template <typename T>
__device__ __forceinline__ void load8(const T* from, float (&to)[8]) {
    uint4 words = __ldg(reinterpret_cast<const uint4*>(from));
    unsigned each[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        to[2 * i] = widen(T{static_cast<uint16_t>(each[i] & 0xffffu)});
        to[2 * i + 1] = widen(T{static_cast<uint16_t>(each[i] >> 16)});
    }
}

// Two numbers of 16 bits, the first in the low bits.
template <typename T>
__device__ __forceinline__ unsigned pair(float first, float second) {
    return narrow<T>(first).bits | static_cast<unsigned>(narrow<T>(second).bits) << 16;
}
#ifndef EMULATE
template <>
__device__ __forceinline__ unsigned pair<float16>(float first, float second) {
    unsigned y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(second), "f"(first));
    return y;
}
template <>
__device__ __forceinline__ unsigned pair<bfloat16>(float first, float second) {
    unsigned y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(second), "f"(first));
    return y;
}
#endif

// Eight neighbours to an array, at a multiple of 16 bytes.
__device__ __forceinline__ void store8(float* to, const float (&x)[8]) {
    float4* parts = reinterpret_cast<float4*>(to);
    parts[0] = {x[0], x[1], x[2], x[3]}, parts[1] = {x[4], x[5], x[6], x[7]};
}
template <typename T>
__device__ __forceinline__ void store8(T* to, const float (&x)[8]) {
    uint4 words = {pair<T>(x[0], x[1]), pair<T>(x[2], x[3]), pair<T>(x[4], x[5]), pair<T>(x[6], x[7])};
    *reinterpret_cast<uint4*>(to) = words;
}

template <typename T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int mask = WARP_SIZE / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(ALL_LANES, x, mask);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int mask = WARP_SIZE / 2; mask > 0; mask /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, mask));
    return x;
}

// The sum over a block of whole warps, known to all of its threads. `shared` holds a float a warp.
template <typename T>
__device__ __forceinline__ T block_sum(T x, T* shared) {
    int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    int warps = blockDim.x / WARP_SIZE;
    x = warp_sum(x);
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    T total = 0;
    for (int i = 0; i < warps; i++) total += shared[i];
    __syncthreads();
    return total;
}

__device__ __forceinline__ float block_max(float x, float* shared) {
    int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    int warps = blockDim.x / WARP_SIZE;
    x = warp_max(x);
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    float largest = shared[0];
    for (int i = 1; i < warps; i++) largest = fmaxf(largest, shared[i]);
    __syncthreads();
    return largest;
}
