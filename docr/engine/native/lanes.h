/* Sixteen lanes of fp32, and bf16 in memory. */

#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;
typedef int64_t i64;

enum {
    LINE = 64,       /* bytes of a register, and of a line of the cache */
    AHEAD = 7 << 10, /* bytes from what is read to what is prefetched, at least: some 400 ns */
};

#define UNROLL _Pragma("GCC unroll 16") /* arrays of registers must not become memory */
#define INLINE static inline __attribute__((always_inline))

INLINE float number(bf16 value) {
    uint32_t bits = (uint32_t)value << 16;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

INLINE bf16 narrow(float value) { /* to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return 0x7fc0;
    return (bf16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

INLINE __m512 widened(const bf16 *at) { /* 16 of them */
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

INLINE __m512 rounded(__m512 x) { /* to bf16 and back */
    __m512i bits = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

INLINE void store(bf16 *at, __m512 x) { /* 16 of them */
    _mm256_storeu_si256((__m256i *)at, (__m256i)_mm512_cvtneps_pbh(x));
}

/* e^x within 2e-7, by 2^n and a polynomial for what is left; 0 far below zero. */
INLINE __m512 exponential(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-200.0f));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.0f / 5040);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

/* 2^x within 1e-7; 2^-126 below that, for smaller numbers cost Intel's processors a detour. */
INLINE __m512 power_of_two(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-126.0f));
    __m512 n = _mm512_roundscale_ps(x, 0), r = _mm512_sub_ps(x, n);
    __m512 p = _mm512_set1_ps(1.327647199e-3f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.675541334e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.550713273e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.402211972e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.931469671e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.000000072e+0f));
    return _mm512_scalef_ps(p, n);
}

/* The lanes below a number. */
INLINE __mmask16 below(i64 count) {
    return count >= 16 ? 0xffff : count <= 0 ? 0 : (__mmask16)((1u << count) - 1);
}

INLINE void prefetch(const void *at) { _mm_prefetch((const char *)at, _MM_HINT_T1); }

#define FOLD(a, b, c, d, ADD) /* what is in four registers, added up in the same order for each */ \
    __m512i ab = ADD(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));                   \
    __m512i cd = ADD(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));                   \
    __m512i all = ADD(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));              \
    all = ADD(all, _mm512_shuffle_i64x2(all, all, 0xb1)); /* quarters: 0 + 1, 2 + 3 */            \
    all = ADD(all, _mm512_shuffle_i64x2(all, all, 0x4e))

INLINE __m512i plus(__m512i a, __m512i b) {
    return (__m512i)_mm512_add_ps((__m512)a, (__m512)b);
}

INLINE __m128 folded(__m512 a, __m512 b, __m512 c, __m512 d) {
    FOLD((__m512i)a, (__m512i)b, (__m512i)c, (__m512i)d, plus);
    return (__m128)_mm512_castsi512_si128(all);
}

INLINE __m128i folded_whole(__m512i a, __m512i b, __m512i c, __m512i d) {
    FOLD(a, b, c, d, _mm512_add_epi32);
    return _mm512_castsi512_si128(all);
}

/* Transpose 16 x 16 words. */
INLINE void transpose(__m512i x[16]) {
    __m512i y[16];
    UNROLL
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    UNROLL
    for (int i = 0; i < 16; i += 4) {
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    UNROLL
    for (int i = 0; i < 4; i++) { /* quarters: 0 and 2, 1 and 3 */
        y[i] = _mm512_shuffle_i32x4(x[i], x[4 + i], 0x88);
        y[4 + i] = _mm512_shuffle_i32x4(x[i], x[4 + i], 0xdd);
        y[8 + i] = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0x88);
        y[12 + i] = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0xdd);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        x[i] = _mm512_shuffle_i32x4(y[i], y[8 + i], 0x88);
        x[8 + i] = _mm512_shuffle_i32x4(y[i], y[8 + i], 0xdd);
        x[4 + i] = _mm512_shuffle_i32x4(y[4 + i], y[12 + i], 0x88);
        x[12 + i] = _mm512_shuffle_i32x4(y[4 + i], y[12 + i], 0xdd);
    }
}
