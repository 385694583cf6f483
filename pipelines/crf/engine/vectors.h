// Short vectors of floats and ints, in GCC's and Clang's vector extensions, and what is computed with them.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace crf {

// How many floats the widest vector of this build holds.
#if defined(__AVX512F__)
constexpr int WIDTH = 16;
#elif defined(__AVX2__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif

template <int N>
struct Lanes {
    typedef float Float __attribute__((vector_size(4 * N)));
    typedef int32_t Int __attribute__((vector_size(4 * N)));
    typedef int64_t Long __attribute__((vector_size(8 * N)));
};

template <class V>
constexpr int lanes = sizeof(V) / sizeof(float);

template <class V>
inline V load(const void* from) {
    V value;
    std::memcpy(&value, from, sizeof(V));
    return value;
}

template <class V>
inline void store(void* to, V value) {
    std::memcpy(to, &value, sizeof(V));
}

template <class To, class From>
inline To bits_of(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    std::memcpy(&result, &value, sizeof(To));
    return result;
}

// a * b + c, rounded once where the machine can. Everything else is compiled without contraction: a pixel has to land
// in the same simplex on every machine. Single numbers are always rounded once: a machine without an instruction for
// it calls the C library.
template <class V>
inline V fma(V a, V b, V c) {
    if constexpr (sizeof(V) == 4) return __builtin_fmaf(a, b, c);
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64) return V(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
#endif
#if defined(__FMA__)
    if constexpr (sizeof(V) == 32) return V(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
    if constexpr (sizeof(V) == 16) return V(_mm_fmadd_ps(__m128(a), __m128(b), __m128(c)));
#elif defined(__aarch64__)
    if constexpr (sizeof(V) == 16) return V(vfmaq_f32(float32x4_t(c), float32x4_t(a), float32x4_t(b)));
#endif
    return a * b + c;
}

template <class V>
inline V broadcast(float value) {
    return value - V{};
}

// The smaller of each pair of elements.
template <class V>
inline V smaller(V a, V b) {
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64) return V(_mm512_min_ps(__m512(a), __m512(b)));
#endif
#if defined(__AVX__)
    if constexpr (sizeof(V) == 32) return V(_mm256_min_ps(__m256(a), __m256(b)));
#endif
#if defined(__SSE__)
    if constexpr (sizeof(V) == 16) return V(_mm_min_ps(__m128(a), __m128(b)));
#endif
    return a < b ? a : b;
}

// The larger of each pair of elements.
template <class V>
inline V larger(V a, V b) {
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64) return V(_mm512_max_ps(__m512(a), __m512(b)));
#endif
#if defined(__AVX__)
    if constexpr (sizeof(V) == 32) return V(_mm256_max_ps(__m256(a), __m256(b)));
#endif
#if defined(__SSE__)
    if constexpr (sizeof(V) == 16) return V(_mm_max_ps(__m128(a), __m128(b)));
#endif
    return a > b ? a : b;
}

// The sum of the elements.
template <class V>
inline float sum(V v) {
    if constexpr (lanes<V> == 4) {
        return (v[0] + v[2]) + (v[1] + v[3]);
    } else {
        typedef typename Lanes<lanes<V> / 2>::Float Half;
        Half halves[2];
        std::memcpy(halves, &v, sizeof(V));
        return sum(halves[0] + halves[1]);
    }
}

// Elements I... of two vectors of four; those of b are numbered from 4. GCC has Clang's builtin only from version 12.
template <int... I>
inline Lanes<4>::Float pick(Lanes<4>::Float a, Lanes<4>::Float b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, I...);
#else
    return __builtin_shuffle(a, b, Lanes<4>::Int{I...});
#endif
}

// The sum of the elements of each of four vectors.
template <class V>
inline Lanes<4>::Float sums(const V* rows) {
    if constexpr (lanes<V> == 4) {
        const V low = pick<0, 4, 1, 5>(rows[0], rows[1]) + pick<2, 6, 3, 7>(rows[0], rows[1]);
        const V high = pick<0, 4, 1, 5>(rows[2], rows[3]) + pick<2, 6, 3, 7>(rows[2], rows[3]);
        return pick<0, 1, 4, 5>(low, high) + pick<2, 3, 6, 7>(low, high);
    } else {
        typedef typename Lanes<lanes<V> / 2>::Float Half;
        Half added[4];
        for (int k = 0; k < 4; ++k) {
            Half halves[2];
            std::memcpy(halves, rows + k, sizeof(V));
            added[k] = halves[0] + halves[1];
        }
        return sums(added);
    }
}

// The largest element.
template <class V>
inline float maximum(V v) {
    float result = v[0];
    for (int i = 1; i < lanes<V>; ++i) result = v[i] > result ? v[i] : result;
    return result;
}

// Adding 1.5 * 2^23 leaves a float no bits for a fraction.
constexpr float NO_FRACTION = 12582912.f;

// The nearest integer, ties to even, for |v| < 2^22.
template <class V>
inline V nearest(V v) {
    return (v + NO_FRACTION) - NO_FRACTION;
}

constexpr float EXP_MIN = -87.f;
constexpr float EXP_MAX = 60.f;

// e^x for x in [EXP_MIN, EXP_MAX], with a relative error below 2e-7. The reduction and the polynomial are those of
// Cephes' expf (S. L. Moshier): x = n log(2) + r, and log(2) is subtracted in two parts.
template <class V>
inline V exp(V x) {
    typedef typename Lanes<lanes<V>>::Int I;
    const V shifted = fma(x, broadcast<V>(1.44269504088896341f), broadcast<V>(NO_FRACTION));
    const I exponent = bits_of<I>(shifted) << 23;
    const V n = shifted - NO_FRACTION;
    V r = fma(n, broadcast<V>(-0.693359375f), x);
    r = fma(n, broadcast<V>(2.12194440e-4f), r);
    V y = fma(r, broadcast<V>(1.9875691500e-4f), broadcast<V>(1.3981999507e-3f));
    y = fma(y, r, broadcast<V>(8.3334519073e-3f));
    y = fma(y, r, broadcast<V>(4.1665795894e-2f));
    y = fma(y, r, broadcast<V>(1.6666665459e-1f));
    y = fma(y, r, broadcast<V>(5.0000001201e-1f));
    y = fma(y, r * r, r + 1.f);
    return bits_of<V>(bits_of<I>(y) + exponent);  // times 2^n
}

template <class V>
inline V clipped_exp(V x) {
    return exp(larger(smaller(x, broadcast<V>(EXP_MAX)), broadcast<V>(EXP_MIN)));
}

}  // namespace crf
