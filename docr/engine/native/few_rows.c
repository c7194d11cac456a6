/* Products of a few rows with large matrices: decoding on a CPU.

For x86-64 with AVX512 in bf16 and in 8-bit integers. A decoding step reads every weight once, so
what counts is how memory is read. On Zen 4 a core reads at full speed in one stream only, and one
prefetched into its second-level cache; so

- matrices stay as the checkpoint holds them, row after row, and each thread reads its part in order;
- a few rows are taken together, for a few rows of x, but prefetched as one stream;
- for one or two rows of x it is read without a stop, and the processor's own prefetching is faster.

A row's result does not depend on the rows beside it. The twins, in PyTorch, are in
../model/decoder.py and ../model/packed.py; bf16 is rounded where they round it.

Shapes: R rows, N x K a matrix, E experts, k choices a row, D hidden size, F an expert's width.
*/

#include <stdlib.h>

#include "products.h"

enum {
    PAIR = 2,        /* rows of a matrix at a time, for few rows of x: */
    FEW = 8,         /* as many as this, half of the registers */
    QUAD = 4,        /* rows of a matrix at a time, for more, */
    SIX = 6,         /* taken so many at a time: most of the registers */
    BLOCK = 8 * SIX, /* rows of x that pass together */
    SPELL = 64,      /* rows of a matrix without a stop, for one or two of x */
};

/* Rows of x: bf16 as they are; u8 with 128 for zero and a scale each. */
typedef struct {
    const char *values[BLOCK];
    float scales[BLOCK];
} Rows;

/* out[i * ldo + j] = x_i w_(n+j), for `rows` rows of x from `top` on, and `wide` of the matrix. What
   lies at `next` is prefetched meanwhile, as many bytes as are read. */
INLINE void tile(int eight, int rows, int wide, const Rows *x, int top, Matrix w, i64 n, i64 K,
                 float *out, i64 ldo, const char *next) {
    const int together = rows > 2 ? wide : 1; /* with little to compute, one after the other */
    const i64 bytes = eight ? K : 2 * K;
    const char *first = (const char *)w.values + n * bytes;
    /* One of the two is used: as one with casts, compilers keep half of it in memory. */
    __m512 sums[FEW + 1][QUAD];
    __m512i whole[FEW + 1][QUAD];
    UNROLL
    for (int i = 0; i < rows + 1; i++)
        UNROLL
        for (int j = 0; j < wide; j++) {
            sums[i][j] = _mm512_setzero_ps();
            whole[i][j] = _mm512_setzero_si512();
        }
    UNROLL
    for (int begin = 0; begin < wide; begin += together)
        for (i64 at = 0; at < bytes; at += LINE) {
            __m512i weights[QUAD];
            UNROLL
            for (int j = begin; j < begin + together; j++) {
                weights[j] = _mm512_loadu_si512(first + j * bytes + at);
                prefetch(next + begin * bytes + together * at + (j - begin) * LINE);
            }
            UNROLL
            for (int i = 0; i < rows; i++) {
                __m512i part = _mm512_loadu_si512(x->values[top + i] + at);
                UNROLL
                for (int j = begin; j < begin + together; j++)
                    if (eight)
                        /* As the intrinsic does it, which has gcc keep half of them in memory. */
                        __asm__("vpdpbusd %2, %1, %0"
                                : "+v"(whole[i][j])
                                : "v"(part), "v"(weights[j]));
                    else
                        sums[i][j] = _mm512_dpbf16_ps(sums[i][j], (__m512bh)part,
                                                      (__m512bh)weights[j]);
            }
        }
    UNROLL
    for (int i = 0; i < rows; i += QUAD / wide) { /* four sums: a row of x, or two */
        const int next = wide == QUAD ? i : i + 1, j = wide == QUAD ? 2 : 0;
        __m128 found = folded(sums[i][0], sums[i][1], sums[next][j], sums[next][j + 1]);
        if (eight) {
            __m128i four = folded_whole(whole[i][0], whole[i][1], whole[next][j], whole[next][j + 1]);
            float even = x->scales[top + i], odd = wide == QUAD ? even : 0;
            const __m128i *sums_at = (const __m128i *)(w.sums + n);
            const __m128i *scales_at = (const __m128i *)(w.scales + n);
            __m128i shift, scale;
            if (wide == QUAD) {
                shift = _mm_loadu_si128(sums_at);
                scale = _mm_loadu_si128(scales_at);
            } else {
                shift = _mm_loadl_epi64(sums_at);
                scale = _mm_loadl_epi64(scales_at);
                shift = _mm_unpacklo_epi64(shift, shift);
                scale = _mm_unpacklo_epi64(scale, scale);
                odd = i + 1 < rows ? x->scales[top + i + 1] : 0;
            }
            four = _mm_sub_epi32(four, _mm_slli_epi32(shift, 7)); /* 128: zero of x */
            found = _mm_mul_ps(_mm_cvtepi32_ps(four), _mm_setr_ps(even, even, odd, odd));
            found = _mm_mul_ps(found, (__m128)scale);
        }
        if (wide == QUAD) {
            _mm_storeu_ps(out + i * ldo, found);
        } else {
            _mm_storel_pi((__m64 *)(out + i * ldo), found);
            if (i + 1 < rows) _mm_storeh_pi((__m64 *)(out + (i + 1) * ldo), found);
        }
    }
}

#define TILE(rows, wide) \
    case rows: return tile(eight, rows, wide, x, top, w, n, K, out, ldo, next)

INLINE void pair(int eight, int rows, const Rows *x, int top, Matrix w, i64 n, i64 K, float *out,
                 i64 ldo, const char *next) {
    switch (rows) {
        TILE(3, PAIR);
        TILE(4, PAIR);
        TILE(5, PAIR);
        TILE(6, PAIR);
        TILE(7, PAIR);
        TILE(8, PAIR);
    }
}

INLINE void quad(int eight, int rows, const Rows *x, int top, Matrix w, i64 n, i64 K, float *out,
                 i64 ldo, const char *next) {
    switch (rows) {
        TILE(1, QUAD);
        TILE(2, QUAD);
        TILE(3, QUAD);
        TILE(4, QUAD);
        TILE(5, QUAD);
        TILE(6, QUAD);
    }
}

INLINE void four_of(int eight, int rows, const Rows *x, Matrix w, i64 n, i64 K, float *out, i64 ldo,
                    const char *next) {
    if (rows <= FEW) {
        pair(eight, rows, x, 0, w, n, K, out, ldo, next);
        pair(eight, rows, x, 0, w, n + PAIR, K, out + PAIR, ldo, next + PAIR * K * (eight ? 1 : 2));
        return;
    }
    for (int top = 0; top < rows; top += SIX)
        quad(eight, rows - top < SIX ? rows - top : SIX, x, top, w, n, K, out + top * ldo, ldo, next);
}

static void four_bf16(int rows, const Rows *x, Matrix w, i64 n, i64 K, float *out, i64 ldo,
                      const char *next) {
    four_of(0, rows, x, w, n, K, out, ldo, next);
}

static void four_int8(int rows, const Rows *x, Matrix w, i64 n, i64 K, float *out, i64 ldo,
                      const char *next) {
    four_of(1, rows, x, w, n, K, out, ldo, next);
}

/* out[i * ldo + j] = x_i w_(n+j), for one or two rows of x and `wide` of the matrix. With so little to
   compute the processor reads ahead best by itself, as long as it is not stopped. */
INLINE void stream(int eight, int rows, const Rows *x, Matrix w, i64 n, i64 wide, i64 K, float *out,
                   i64 ldo) {
    const i64 bytes = eight ? K : 2 * K;
    const char *at = (const char *)w.values + n * bytes;
    const char *first = x->values[0], *second = x->values[rows - 1];
    for (i64 j = 0; j < wide; j += QUAD) {
        __m512 sums[2][QUAD];
        __m512i whole[2][QUAD];
        UNROLL
        for (int k = 0; k < QUAD; k++) {
            sums[0][k] = sums[1][k] = _mm512_setzero_ps();
            whole[0][k] = whole[1][k] = _mm512_setzero_si512();
            for (i64 i = 0; i < bytes; i += LINE) {
                __m512i weights = _mm512_loadu_si512(at + i);
                __m512i one = _mm512_loadu_si512(first + i), two = _mm512_loadu_si512(second + i);
                if (eight) {
                    whole[0][k] = _mm512_dpbusd_epi32(whole[0][k], one, weights);
                    if (rows > 1) whole[1][k] = _mm512_dpbusd_epi32(whole[1][k], two, weights);
                } else {
                    sums[0][k] = _mm512_dpbf16_ps(sums[0][k], (__m512bh)one, (__m512bh)weights);
                    if (rows > 1)
                        sums[1][k] = _mm512_dpbf16_ps(sums[1][k], (__m512bh)two, (__m512bh)weights);
                }
            }
            at += bytes;
        }
        UNROLL
        for (int i = 0; i < rows; i++) {
            __m128 found = folded(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
            if (eight) {
                __m128i four = folded_whole(whole[i][0], whole[i][1], whole[i][2], whole[i][3]);
                __m128i shift = _mm_loadu_si128((const __m128i *)(w.sums + n + j));
                four = _mm_sub_epi32(four, _mm_slli_epi32(shift, 7)); /* 128: zero of x */
                found = _mm_mul_ps(_mm_cvtepi32_ps(four), _mm_set1_ps(x->scales[i]));
                found = _mm_mul_ps(found, _mm_loadu_ps(w.scales + n + j));
            }
            _mm_storeu_ps(out + i * ldo + j, found);
        }
    }
}

static void stream_bf16(int rows, const Rows *x, Matrix w, i64 n, i64 wide, i64 K, float *out, i64 ldo) {
    rows == 1 ? stream(0, 1, x, w, n, wide, K, out, ldo) : stream(0, 2, x, w, n, wide, K, out, ldo);
}

static void stream_int8(int rows, const Rows *x, Matrix w, i64 n, i64 wide, i64 K, float *out, i64 ldo) {
    rows == 1 ? stream(1, 1, x, w, n, wide, K, out, ldo) : stream(1, 2, x, w, n, wide, K, out, ldo);
}

/* Rows of a matrix that are taken together for so many rows of x, up to `left`. */
INLINE i64 together(int rows, i64 left) {
    return rows > 2 ? QUAD : left < SPELL ? left : SPELL;
}

/* out[i * ldo + j] = x_i w_(n+j), for up to BLOCK rows of x and `wide` of the matrix. */
INLINE void some(int eight, int rows, const Rows *x, Matrix w, i64 n, i64 wide, i64 K, float *out,
                 i64 ldo, const char *next) {
    if (rows <= 2)
        (eight ? stream_int8 : stream_bf16)(rows, x, w, n, wide, K, out, ldo);
    else
        (eight ? four_int8 : four_bf16)(rows, x, w, n, K, out, ldo, next);
}

/* Rows [begin, end) of a matrix, which a thread reads four at a time, and where it goes on then. */
typedef struct {
    Matrix w;
    i64 begin, end;
    const char *after; /* NULL: nobody knows */
} Span;

/* Where prefetching begins while the four rows at n are read for `count` rows of x. */
INLINE const char *next_of(int eight, int count, const Span *span, i64 n, i64 K) {
    const i64 bytes = eight ? K : 2 * K, four = QUAD * bytes, left = (span->end - n) * bytes;
    /* Several passes over the four: whole, for the first of them is over soon. */
    const i64 ahead = count > FEW && four > AHEAD ? four : AHEAD;
    if (span->after && left < ahead + four) return span->after + ahead - left;
    return (const char *)span->w.values + n * bytes + ahead;
}

/* Rows which[0] to which[count - 1] of x [.,K], or of its 8-bit form if there is one. */
INLINE Rows some_rows(const bf16 *x, const uint8_t *eighth, const float *scales, i64 K,
                      const i64 *which, int count) {
    Rows rows;
    for (int i = 0; i < count; i++) {
        rows.values[i] = eighth ? (const char *)(eighth + which[i] * K)
                                : (const char *)(x + which[i] * K);
        rows.scales[i] = eighth ? scales[which[i]] : 0;
    }
    return rows;
}

INLINE int fewer(i64 left) { return left < BLOCK ? (int)left : BLOCK; }

/* out [count,wide], `N` apart, of sums. */
INLINE void put(const float *sums, int count, i64 wide, bf16 *out, i64 N) {
    for (int i = 0; i < count; i++)
        for (i64 j = 0; j < wide; j++) out[i * N + j] = narrow(sums[i * wide + j]);
}

/* Adds to rows row_of[i] of `mixed` [.,D] what sums [count,wide] say, rounded, times a share each. */
INLINE void mix(const float *sums, int count, i64 wide, const i64 *row_of, const i64 *order,
                const float *shares, float *mixed, i64 D) {
    for (int i = 0; i < count; i++)
        for (i64 j = 0; j < wide; j++)
            mixed[row_of[i] * D + j] = fmaf(shares[order[i]], number(narrow(sums[i * wide + j])),
                                            mixed[row_of[i] * D + j]);
}

INLINE int linear(int eight, const bf16 *x, Matrix w, bf16 *out, i64 R, i64 N, i64 K) {
    char *memory = eight ? aligned_alloc(LINE, (R * (K + 4) / LINE + 3) * LINE) : NULL;
    if (eight && !memory) return 0;
    char *at = memory;
    uint8_t *small = eight ? take(&at, R * K) : NULL;
    float *scales = eight ? take(&at, R * sizeof(float)) : NULL;
#pragma omp parallel
    {
        if (eight) {
#pragma omp for
            for (i64 row = 0; row < R; row++) scales[row] = quantize(x + row * K, K, small + row * K);
        }
        i64 begin, end;
        part_of(N, QUAD, &begin, &end);
        Span span = {w, begin, end, NULL};
        for (i64 n = begin, wide; n < end; n += wide) {
            wide = together(fewer(R), end - n);
            for (i64 row = 0; row < R; row += BLOCK) {
                int count = fewer(R - row);
                i64 which[BLOCK];
                float sums[BLOCK * QUAD];
                for (int i = 0; i < count; i++) which[i] = row + i;
                Rows rows = some_rows(x, small, scales, K, which, count);
                some(eight, count, &rows, w, n, wide, K, sums, wide,
                     next_of(eight, count, &span, n, K));
                if (wide == QUAD) /* of a length that compilers know */
                    put(sums, count, QUAD, out + row * N + n, N);
                else
                    put(sums, count, wide, out + row * N + n, N);
            }
        }
    }
    free(memory);
    return 1;
}

/* Whether the matrix unit, if there is one, is for so many rows of x a matrix, on average: of few in
   8 bits it makes the same, 5 to 10 % slower. */
INLINE int for_amx(const Matrix *w, i64 rows, i64 matrices) {
    return !w->scales || rows > FEW * matrices;
}

/* out [R,N] = x [R,K] w [N,K]^T. N is a multiple of 4, K of 32, and of 64 in 8 bits. */
int docr_linear(const bf16 *x, const Matrix *w, bf16 *out, i64 R, i64 N, i64 K) {
    if (amx_takes(N) && for_amx(w, R, 1)) return amx_linear(x, w, out, R, N, K);
    return w->scales ? linear(1, x, *w, out, R, N, K) : linear(0, x, *w, out, R, N, K);
}

INLINE int experts(int eight, const bf16 *x, const i64 *chosen, const float *shares, Matrix gate_up,
                   Matrix down, bf16 *out, i64 R, i64 k, i64 E, i64 D, i64 F) {
    i64 choices = R * k;
    i64 bytes = (E + 1 + 2 * choices) * 8 + choices * F * (8 + 2 + 1) + R * D * (4 + 1) +
                (R + choices) * 4;
    char *memory = aligned_alloc(LINE, (bytes / LINE + 16) * LINE); /* 10 pieces, each rounded up */
    if (!memory) return 0;
    char *at = memory;
    i64 *starts = take(&at, (E + 1) * sizeof(i64));
    i64 *order = take(&at, choices * sizeof(i64));
    i64 *row_of = take(&at, choices * sizeof(i64));
    float *both = take(&at, choices * 2 * F * sizeof(float)); /* gate and up, sorted */
    bf16 *hidden = take(&at, choices * F * sizeof(bf16));
    float *mixed = take(&at, R * D * sizeof(float));
    uint8_t *small_x = eight ? take(&at, R * D) : NULL;
    float *x_scales = eight ? take(&at, R * sizeof(float)) : NULL;
    uint8_t *small_hidden = eight ? take(&at, choices * F) : NULL;
    float *hidden_scales = eight ? take(&at, choices * sizeof(float)) : NULL;

    sort_choices(chosen, choices, E, starts, order);
    for (i64 s = 0; s < choices; s++) row_of[s] = order[s] / k;
    for (i64 row = 0; eight && row < R; row++)
        x_scales[row] = quantize(x + row * D, D, small_x + row * D);

    const i64 top = chosen_from(starts, 0, E);
#pragma omp parallel
    {
        i64 begin, end, first, last, following;
        part_of(F, 16, &begin, &end);    /* of gates, and of as many ups */
        part_of(D, QUAD, &first, &last); /* of outputs */
        for (i64 e = top; e < E; e = following) {
            following = chosen_from(starts, e + 1, E);
            const Matrix w = of_expert(eight, gate_up, e, 2 * F, D);
            const char *ups = row_of_expert(eight, gate_up, e, 2 * F, D, F + begin);
            const char *after = following < E
                                    ? row_of_expert(eight, gate_up, following, 2 * F, D, begin)
                                    : row_of_expert(eight, down, top, D, F, first);
            for (i64 half = 0; half < 2; half++) {
                const Span span = {w, half * F + begin, half * F + end, half ? after : ups};
                for (i64 n = span.begin, wide; n < span.end; n += wide) {
                    wide = together(fewer(starts[e + 1] - starts[e]), span.end - n);
                    for (i64 s = starts[e]; s < starts[e + 1]; s += BLOCK) {
                        int count = fewer(starts[e + 1] - s);
                        Rows rows = some_rows(x, small_x, x_scales, D, row_of + s, count);
                        some(eight, count, &rows, w, n, wide, D, both + s * 2 * F + n, 2 * F,
                             next_of(eight, count, &span, n, D));
                    }
                }
            }
        }
        for (i64 s = 0; s < choices; s++)
            for (i64 f = begin; f < end; f += 16) {
                __m512 gate = rounded(_mm512_loadu_ps(both + s * 2 * F + f));
                __m512 up = rounded(_mm512_loadu_ps(both + s * 2 * F + F + f));
                __m512 decay = exponential(_mm512_sub_ps(_mm512_setzero_ps(), gate));
                __m512 silu = _mm512_div_ps(gate, _mm512_add_ps(_mm512_set1_ps(1), decay));
                store(hidden + s * F + f, _mm512_mul_ps(rounded(silu), up));
            }
#pragma omp barrier
        if (eight) {
#pragma omp for
            for (i64 s = 0; s < choices; s++)
                hidden_scales[s] = quantize(hidden + s * F, F, small_hidden + s * F);
        }
        for (i64 row = 0; row < R; row++)
            memset(mixed + row * D + first, 0, (last - first) * sizeof(float));
        for (i64 e = top; e < E; e = following) {
            following = chosen_from(starts, e + 1, E);
            const Matrix w = of_expert(eight, down, e, D, F);
            const char *after =
                following < E ? row_of_expert(eight, down, following, D, F, first) : NULL;
            const Span span = {w, first, last, after};
            for (i64 n = first, wide; n < last; n += wide) {
                wide = together(fewer(starts[e + 1] - starts[e]), last - n);
                for (i64 s = starts[e]; s < starts[e + 1]; s += BLOCK) {
                    int count = fewer(starts[e + 1] - s);
                    i64 which[BLOCK];
                    float sums[BLOCK * QUAD];
                    for (int i = 0; i < count; i++) which[i] = s + i;
                    Rows rows = some_rows(hidden, small_hidden, hidden_scales, F, which, count);
                    some(eight, count, &rows, w, n, wide, F, sums, wide,
                         next_of(eight, count, &span, n, F));
                    if (wide == QUAD)
                        mix(sums, count, QUAD, row_of + s, order + s, shares, mixed + n, D);
                    else
                        mix(sums, count, wide, row_of + s, order + s, shares, mixed + n, D);
                }
            }
        }
        for (i64 row = 0; row < R; row++)
            for (i64 n = first; n < last; n++) out[row * D + n] = narrow(mixed[row * D + n]);
    }
    free(memory);
    return 1;
}

/* Each row's chosen experts, silu(x gate) * (x up) down, weighted and summed: out [R,D].
   x [R,D]; chosen, shares [R,k]; gate_up [E,2F,D]; down [E,D,F], scales and sums of both as their
   rows. D and F are multiples of 32, and of 64 in 8 bits. */
int docr_experts(const bf16 *x, const i64 *chosen, const float *shares, const Matrix *gate_up,
                 const Matrix *down, bf16 *out, i64 R, i64 k, i64 E, i64 D, i64 F) {
    if (amx_takes(D) && amx_takes(F) && for_amx(gate_up, R * k, E))
        return amx_experts(x, chosen, shares, gate_up, down, out, R, k, E, D, F);
    return gate_up->scales ? experts(1, x, chosen, shares, *gate_up, *down, out, R, k, E, D, F)
                           : experts(0, x, chosen, shares, *gate_up, *down, out, R, k, E, D, F);
}
