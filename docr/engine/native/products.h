/* Products with matrices, what goes with them in a layer, and what these files share. Those that are
   called return 0 where there is no memory. */

#pragma once

#include <math.h>
#include <omp.h>

#include "lanes.h"

/* A matrix: bf16 as it is; 8-bit integers with a scale and the sum of each row. */
typedef struct {
    const void *values;
    const float *scales; /* NULL: bf16 */
    const int32_t *sums;
} Matrix;

int docr_linear(const bf16 *x, const Matrix *w, bf16 *out, i64 R, i64 N, i64 K);
int docr_experts(const bf16 *x, const i64 *chosen, const float *shares, const Matrix *gate_up,
                 const Matrix *down, bf16 *out, i64 R, i64 k, i64 E, i64 D, i64 F);
int docr_attend_bf16(const bf16 *q, const bf16 *k, const bf16 *v, const i64 *strides, bf16 *keys,
                     bf16 *values, const i64 *positions, const i64 *starts, bf16 *out, i64 B, i64 H,
                     i64 hd);
int docr_rotate_bf16(bf16 *qkv, const bf16 *rotary, i64 R, i64 H, i64 hd);
int docr_norm_bf16(const bf16 *x, const bf16 *weight, float eps, bf16 *out, i64 R, i64 D);
int docr_route_bf16(const bf16 *x, const float *gate, float *shares, i64 *chosen, i64 R, i64 k, i64 E,
                    i64 D);

/* Whether a matrix with so many rows is for the matrix unit (amx.c), if there is one. */
#ifdef __AMX_BF16__
INLINE int amx_takes(i64 side) { return side % 16 == 0; }
#else
INLINE int amx_takes(i64 side) { return 0; }
#endif

int amx_linear(const bf16 *x, const Matrix *w, bf16 *out, i64 R, i64 N, i64 K);
int amx_experts(const bf16 *x, const i64 *chosen, const float *shares, const Matrix *gate_up,
                const Matrix *down, bf16 *out, i64 R, i64 k, i64 E, i64 D, i64 F);

/* This thread's part [begin, end) of `count`, a multiple of `step`. */
INLINE void part_of(i64 count, i64 step, i64 *begin, i64 *end) {
    i64 thread = omp_get_thread_num(), threads = omp_get_num_threads(), steps = count / step;
    *begin = steps * thread / threads * step;
    *end = steps * (thread + 1) / threads * step;
}

/* One row x [K] as u8, 128 for zero; returns what a step stands for. */
INLINE float quantize(const bf16 *x, i64 K, uint8_t *out) {
    __m512 most = _mm512_setzero_ps();
    for (i64 i = 0; i < K; i += 16) most = _mm512_max_ps(most, _mm512_abs_ps(widened(x + i)));
    float scale = fmaxf(_mm512_reduce_max_ps(most), 1e-12f) / 127;
    __m512 inverse = _mm512_set1_ps(1 / scale);
    for (i64 i = 0; i < K; i += 16) {
        __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(widened(x + i), inverse));
        whole = _mm512_add_epi32(whole, _mm512_set1_epi32(128));
        _mm_storeu_si128((__m128i *)(out + i), _mm512_cvtepi32_epi8(whole));
    }
    return scale;
}

/* A block of memory for each call, in pieces. */
INLINE void *take(char **free_at, i64 bytes) {
    void *taken = *free_at;
    *free_at += (bytes + LINE - 1) / LINE * LINE;
    return taken;
}

INLINE Matrix of_expert(int eight, Matrix all, i64 expert, i64 N, i64 K) {
    all.values = (const char *)all.values + expert * N * K * (eight ? 1 : 2);
    if (eight) {
        all.scales += expert * N;
        all.sums += expert * N;
    }
    return all;
}

/* Where row n of an expert lies. */
INLINE const char *row_of_expert(int eight, Matrix all, i64 expert, i64 N, i64 K, i64 n) {
    return (const char *)all.values + (expert * N + n) * K * (eight ? 1 : 2);
}

/* The first expert from e on that has rows; E: there is none. */
INLINE i64 chosen_from(const i64 *starts, i64 e, i64 E) {
    while (e < E && starts[e] == starts[e + 1]) e++;
    return e;
}

/* Choices sorted by expert: those of e are order[starts[e]] to order[starts[e + 1] - 1]. */
INLINE void sort_choices(const i64 *chosen, i64 choices, i64 E, i64 *starts, i64 *order) {
    memset(starts, 0, (E + 1) * sizeof(i64));
    for (i64 c = 0; c < choices; c++) starts[chosen[c] + 1]++;
    for (i64 e = 0; e < E; e++) starts[e + 1] += starts[e];
    for (i64 c = 0; c < choices; c++) order[starts[chosen[c]]++] = c; /* starts are ends now */
    memmove(starts + 1, starts, E * sizeof(i64));
    starts[0] = 0;
}
