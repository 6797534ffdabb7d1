// CUDA's numbers of 16 and 8 bits, as far as candle's kernels need them: they compute in float32.
#pragma once

#include "../emulate.h"

namespace emulated {

inline float widened(uint16_t bits, int exponents) {
    int rest_bits = 15 - exponents, bias = (1 << (exponents - 1)) - 1;
    int exponent = bits >> rest_bits & ((1 << exponents) - 1), rest = bits & ((1 << rest_bits) - 1);
    float sign = bits & 0x8000 ? -1.0f : 1.0f;
    if (exponent == (1 << exponents) - 1) return rest ? NAN : sign * INFINITY;
    float one = exponent ? 1.0f : 0.0f;
    return sign * std::ldexp(one + std::ldexp(float(rest), -rest_bits), (exponent ? exponent : 1) - bias);
}

// The nearest, ties to even.
inline uint16_t narrowed(float x, int exponents) {
    int rest_bits = 15 - exponents, bias = (1 << (exponents - 1)) - 1;
    uint16_t sign = std::signbit(x) ? 0x8000 : 0, infinity = ((1 << exponents) - 1) << rest_bits;
    if (x != x) return sign | infinity | 1 << (rest_bits - 1);
    float size = std::fabs(x);
    int exponent = size > 0 && size < INFINITY ? std::max(std::ilogb(size), 1 - bias) : 1 - bias;
    if (size == INFINITY) return sign | infinity;
    // In steps of the last place; what rounds up to the next power of two carries into the exponent.
    float steps = std::nearbyint(std::ldexp(size, rest_bits - exponent));
    int bits = int(steps) + ((exponent + bias - 1) << rest_bits);
    return sign | std::min(bits, int(infinity));
}

template <int EXPONENTS>
struct Narrow {
    uint16_t bits;
    Narrow() = default;
    template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
    Narrow(T x) : bits(narrowed(float(x), EXPONENTS)) {}
    template <int OTHER, typename = std::enable_if_t<OTHER != EXPONENTS>>
    Narrow(Narrow<OTHER> x) : bits(narrowed(float(x), EXPONENTS)) {}
    operator float() const { return widened(bits, EXPONENTS); }
    Narrow& operator+=(float x) { return *this = Narrow(float(*this) + x); }
    Narrow& operator*=(float x) { return *this = Narrow(float(*this) * x); }
};

}  // namespace emulated

using __half = emulated::Narrow<5>;
using __nv_bfloat16 = emulated::Narrow<8>;

inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return x; }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
struct __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x + b.x, a.y + b.y}; }
inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x * b.x, a.y * b.y}; }
inline __half __ushort_as_half(unsigned short bits) {
    __half x;
    x.bits = bits;
    return x;
}
inline unsigned short __half_as_ushort(__half x) { return x.bits; }

template <int E>
using Narrow = emulated::Narrow<E>;

template <int E> bool __hisnan(Narrow<E> x) { return std::isnan(float(x)); }
template <int E> Narrow<E> hsqrt(Narrow<E> x) { return std::sqrt(float(x)); }
template <int E> Narrow<E> hcos(Narrow<E> x) { return std::cos(float(x)); }
template <int E> Narrow<E> hsin(Narrow<E> x) { return std::sin(float(x)); }
template <int E> Narrow<E> hlog(Narrow<E> x) { return std::log(float(x)); }
template <int E> Narrow<E> hexp(Narrow<E> x) { return std::exp(float(x)); }
template <int E> Narrow<E> __habs(Narrow<E> x) { return std::fabs(float(x)); }
template <int E> Narrow<E> __hmax_nan(Narrow<E> a, Narrow<E> b) {
    return __hisnan(a) ? a : __hisnan(b) ? b : float(a) < float(b) ? b : a;
}
template <int E> Narrow<E> __hmin_nan(Narrow<E> a, Narrow<E> b) {
    return __hisnan(a) ? a : __hisnan(b) ? b : float(b) < float(a) ? b : a;
}

// Eight bits have names here, and no more.
struct __nv_fp8_e4m3 {
    uint8_t __x;
    __nv_fp8_e4m3() = default;
    explicit __nv_fp8_e4m3(float) { emulated::fail("there are no numbers of 8 bits"); }
};
constexpr int __NV_E4M3 = 0;
inline __half __nv_cvt_fp8_to_halfraw(uint8_t, int) { emulated::fail("there are no numbers of 8 bits"); }

inline float normcdff(float x) { return 0.5f * std::erfc(-x * float(M_SQRT1_2)); }
inline double normcdf(double x) { return 0.5 * std::erfc(-x * M_SQRT1_2); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int __float_as_int(float x) { return int(__float_as_uint(x)); }
inline float __int_as_float(int x) { return __uint_as_float(unsigned(x)); }
inline long long __double_as_longlong(double x) {
    long long bits;
    std::memcpy(&bits, &x, 8);
    return bits;
}
inline double __longlong_as_double(long long bits) {
    double x;
    std::memcpy(&x, &bits, 8);
    return x;
}

// One thread runs at a time.
template <typename T, typename V>
T atomicAdd(T* at, V value) {
    T before = *at;
    *at += value;
    return before;
}
template <typename T, typename V>
T atomicMax(T* at, V value) {
    T before = *at;
    if (before < T(value)) *at = value;
    return before;
}
template <typename T, typename V>
T atomicMin(T* at, V value) {
    T before = *at;
    if (T(value) < before) *at = value;
    return before;
}
template <typename T, typename V>
T atomicCAS(T* at, V expected, V value) {
    T before = *at;
    if (before == T(expected)) *at = value;
    return before;
}
