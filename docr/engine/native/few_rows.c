/* Products of a few rows with large matrices, and attention of a few queries: decoding on a CPU.

For x86-64 with AVX512 in bf16 and in 8-bit integers. A decoding step reads every weight and every
key once, so what counts is how memory is read. On Zen 4 a core reads at full speed in one stream
only, and one prefetched into its second-level cache; so

- matrices stay as the checkpoint holds them, row after row, and each thread reads its part in order;
- two rows are taken at a time, for as many as eight rows of x, but prefetched as one stream.

A row's result does not depend on the rows beside it. The twins, in PyTorch, are in
model/decoder.py and model/packed.py; but in attention bf16 is rounded where they round it.
Steps that read little are here as well: for a few rows each of PyTorch's operators takes longer to
call than to run.

Shapes: R rows, N x K a matrix, E experts, k choices a row, D hidden size, F an expert's width,
B pages, H heads, T queries, hd head dim.
*/

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "lanes.h"

enum {
    ROWS = 8,        /* of x at a time: with two rows of a matrix, half of the registers */
    PAIR = 2,        /* rows of a matrix at a time */
    AHEAD = 7 << 10, /* bytes from what is read to what is prefetched: some 400 ns */
};

INLINE void prefetch(const void *at) { _mm_prefetch((const char *)at, _MM_HINT_T1); }

/* A matrix: bf16 as it is; 8-bit integers with a scale and the sum of each row. */
typedef struct {
    const void *values;
    const float *scales;
    const int32_t *sums;
} Matrix;

/* Rows of x: bf16 as they are; u8 with 128 for zero and a scale each. */
typedef struct {
    const char *values[ROWS];
    float scales[ROWS];
} Rows;

INLINE __m512i plus(int eight, __m512i a, __m512i b) {
    return eight ? _mm512_add_epi32(a, b) : (__m512i)_mm512_add_ps((__m512)a, (__m512)b);
}

/* The sums of four registers: fp32, or 32-bit integers. Each is added up in the same order. */
INLINE __m128i folded(int eight, __m512i a, __m512i b, __m512i c, __m512i d) {
    __m512i ab = plus(eight, _mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    __m512i cd = plus(eight, _mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    __m512i all = plus(eight, _mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    all = plus(eight, all, _mm512_shuffle_i64x2(all, all, 0xb1)); /* quarters: 0 + 1, 2 + 3 */
    all = plus(eight, all, _mm512_shuffle_i64x2(all, all, 0x4e));
    return _mm512_castsi512_si128(all);
}

/* out[row * ldo + j] = x_row w_(n+j) for `rows` rows of x and two of the matrix. */
INLINE void tile(int eight, int rows, Rows *x, Matrix w, i64 n, i64 K, float *out, i64 ldo) {
    const int pair = rows > 2 ? PAIR : 1; /* with little to compute, one after the other */
    const i64 bytes = eight ? K : 2 * K;
    const char *first = (const char *)w.values + n * bytes;
    __m512i sums[ROWS + 1][PAIR];
    for (int i = 0; i < rows + 1; i++)
        for (int j = 0; j < PAIR; j++) sums[i][j] = _mm512_setzero_si512();
    for (int begin = 0; begin < PAIR; begin += pair)
        for (i64 at = 0; at < bytes; at += LINE) {
            __m512i weights[PAIR];
            for (int j = begin; j < begin + pair; j++) {
                weights[j] = _mm512_loadu_si512(first + j * bytes + at);
                prefetch(first + begin * bytes + pair * at + (j - begin) * LINE + AHEAD);
            }
            for (int i = 0; i < rows; i++) {
                __m512i part = _mm512_loadu_si512(x->values[i] + at);
                for (int j = begin; j < begin + pair; j++)
                    sums[i][j] = eight ? _mm512_dpbusd_epi32(sums[i][j], part, weights[j])
                                       : (__m512i)_mm512_dpbf16_ps((__m512)sums[i][j],
                                                                   (__m512bh)part,
                                                                   (__m512bh)weights[j]);
            }
        }
    for (int i = 0; i < rows; i += 2) { /* two rows of x with two of the matrix */
        __m128i four = folded(eight, sums[i][0], sums[i][1], sums[i + 1][0], sums[i + 1][1]);
        __m128 found = (__m128)four;
        if (eight) {
            __m128i shift = _mm_loadl_epi64((const __m128i *)(w.sums + n));
            __m128i scale = _mm_loadl_epi64((const __m128i *)(w.scales + n));
            float even = x->scales[i], odd = i + 1 < rows ? x->scales[i + 1] : 0;
            shift = _mm_slli_epi32(_mm_unpacklo_epi64(shift, shift), 7); /* 128: zero of x */
            four = _mm_sub_epi32(four, shift);
            found = _mm_mul_ps(_mm_cvtepi32_ps(four), _mm_setr_ps(even, even, odd, odd));
            found = _mm_mul_ps(found, (__m128)_mm_unpacklo_epi64(scale, scale));
        }
        _mm_storel_pi((__m64 *)(out + i * ldo), found);
        if (i + 1 < rows) _mm_storeh_pi((__m64 *)(out + (i + 1) * ldo), found);
    }
}

/* The same for any number of rows up to ROWS, each compiled for itself. */
INLINE void tiles(int eight, int rows, Rows *x, Matrix w, i64 n, i64 K, float *out, i64 ldo) {
    switch (rows) {
        case 1: return tile(eight, 1, x, w, n, K, out, ldo);
        case 2: return tile(eight, 2, x, w, n, K, out, ldo);
        case 3: return tile(eight, 3, x, w, n, K, out, ldo);
        case 4: return tile(eight, 4, x, w, n, K, out, ldo);
        case 5: return tile(eight, 5, x, w, n, K, out, ldo);
        case 6: return tile(eight, 6, x, w, n, K, out, ldo);
        case 7: return tile(eight, 7, x, w, n, K, out, ldo);
        default: return tile(eight, 8, x, w, n, K, out, ldo);
    }
}

/* This thread's part [begin, end) of `count`, a multiple of `step`. */
INLINE void part_of(i64 count, i64 step, i64 *begin, i64 *end) {
    i64 thread = omp_get_thread_num(), threads = omp_get_num_threads(), steps = count / step;
    *begin = steps * thread / threads * step;
    *end = steps * (thread + 1) / threads * step;
}

/* One row x [K] as u8, 128 for zero; returns what a step stands for. */
static float quantize(const bf16 *x, i64 K, uint8_t *out) {
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

/* Rows `first` to `first + count` of x [.,K], or of its 8-bit form if there is one. */
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

INLINE int fewer(i64 left) { return left < ROWS ? (int)left : ROWS; }

/* A block of memory for each call, in pieces. */
INLINE void *take(char **free_at, i64 bytes) {
    void *taken = *free_at;
    *free_at += (bytes + LINE - 1) / LINE * LINE;
    return taken;
}

INLINE int linear(int eight, const bf16 *x, Matrix w, bf16 *out, i64 R, i64 N, i64 K) {
    char *memory = eight ? aligned_alloc(LINE, R * (K + LINE) + 2 * LINE) : NULL;
    if (eight && !memory) return 0;
    char *at = memory;
    uint8_t *small = eight ? take(&at, R * K) : NULL;
    float *scales = eight ? take(&at, R * sizeof(float)) : NULL;
    for (i64 row = 0; eight && row < R; row++) scales[row] = quantize(x + row * K, K, small + row * K);
#pragma omp parallel
    {
        i64 begin, end;
        part_of(N, PAIR, &begin, &end);
        for (i64 n = begin; n < end; n += PAIR)
            for (i64 row = 0; row < R; row += ROWS) {
                int count = fewer(R - row);
                i64 which[ROWS];
                float sums[ROWS * PAIR];
                for (int i = 0; i < count; i++) which[i] = row + i;
                Rows rows = some_rows(x, small, scales, K, which, count);
                tiles(eight, count, &rows, w, n, K, sums, PAIR);
                for (int i = 0; i < count; i++)
                    for (int j = 0; j < PAIR; j++)
                        out[(row + i) * N + n + j] = narrow(sums[i * PAIR + j]);
            }
    }
    free(memory);
    return 1;
}

/* out [R,N] = x [R,K] w [N,K]^T. N is even, K a multiple of 32. 0: no memory. */
int docr_linear_bf16(const bf16 *x, const bf16 *w, bf16 *out, i64 R, i64 N, i64 K) {
    return linear(0, x, (Matrix){w, NULL, NULL}, out, R, N, K);
}

/* The same with 8-bit integers; K is a multiple of 64. */
int docr_linear_int8(const bf16 *x, const int8_t *w, const float *scales, const int32_t *sums,
                     bf16 *out, i64 R, i64 N, i64 K) {
    return linear(1, x, (Matrix){w, scales, sums}, out, R, N, K);
}

INLINE Matrix of_expert(int eight, Matrix all, i64 expert, i64 N, i64 K) {
    all.values = (const char *)all.values + expert * N * K * (eight ? 1 : 2);
    if (eight) {
        all.scales += expert * N;
        all.sums += expert * N;
    }
    return all;
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
    i64 *order = take(&at, choices * sizeof(i64)); /* choices, sorted by expert */
    i64 *row_of = take(&at, choices * sizeof(i64));
    float *both = take(&at, choices * 2 * F * sizeof(float)); /* gate and up, sorted */
    bf16 *hidden = take(&at, choices * F * sizeof(bf16));
    float *mixed = take(&at, R * D * sizeof(float));
    uint8_t *small_x = eight ? take(&at, R * D) : NULL;
    float *x_scales = eight ? take(&at, R * sizeof(float)) : NULL;
    uint8_t *small_hidden = eight ? take(&at, choices * F) : NULL;
    float *hidden_scales = eight ? take(&at, choices * sizeof(float)) : NULL;

    memset(starts, 0, (E + 1) * sizeof(i64));
    for (i64 c = 0; c < choices; c++) starts[chosen[c] + 1]++;
    for (i64 e = 0; e < E; e++) starts[e + 1] += starts[e];
    for (i64 c = 0; c < choices; c++) order[starts[chosen[c]]++] = c; /* starts are ends now */
    memmove(starts + 1, starts, E * sizeof(i64));
    starts[0] = 0;
    for (i64 s = 0; s < choices; s++) row_of[s] = order[s] / k;
    for (i64 row = 0; eight && row < R; row++)
        x_scales[row] = quantize(x + row * D, D, small_x + row * D);

#pragma omp parallel
    {
        i64 begin, end;
        part_of(F, 16, &begin, &end); /* of gates, and of as many ups */
        for (i64 e = 0; e < E; e++) {
            Matrix w = of_expert(eight, gate_up, e, 2 * F, D);
            for (i64 half = 0; half < 2; half++)
                for (i64 n = half * F + begin; n < half * F + end; n += PAIR)
                    for (i64 s = starts[e]; s < starts[e + 1]; s += ROWS) {
                        int count = fewer(starts[e + 1] - s);
                        Rows rows = some_rows(x, small_x, x_scales, D, row_of + s, count);
                        tiles(eight, count, &rows, w, n, D, both + s * 2 * F + n, 2 * F);
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
        part_of(D, PAIR, &begin, &end);
        for (i64 row = 0; row < R; row++)
            memset(mixed + row * D + begin, 0, (end - begin) * sizeof(float));
        for (i64 e = 0; e < E; e++) {
            Matrix w = of_expert(eight, down, e, D, F);
            for (i64 n = begin; n < end; n += PAIR)
                for (i64 s = starts[e]; s < starts[e + 1]; s += ROWS) {
                    int count = fewer(starts[e + 1] - s);
                    i64 which[ROWS];
                    float sums[ROWS * PAIR];
                    for (int i = 0; i < count; i++) which[i] = s + i;
                    Rows rows = some_rows(hidden, small_hidden, hidden_scales, F, which, count);
                    tiles(eight, count, &rows, w, n, F, sums, PAIR);
                    for (int i = 0; i < count; i++)
                        for (int j = 0; j < PAIR; j++)
                            mixed[row_of[s + i] * D + n + j] +=
                                shares[order[s + i]] * number(narrow(sums[i * PAIR + j]));
                }
        }
        for (i64 row = 0; row < R; row++)
            for (i64 n = begin; n < end; n++) out[row * D + n] = narrow(mixed[row * D + n]);
    }
    free(memory);
    return 1;
}

/* Each row's chosen experts, silu(x gate) * (x up) down, weighted and summed: out [R,D].
   x [R,D]; chosen, shares [R,k]; gate_up [E,2F,D]; down [E,D,F]. D and F are multiples of 32. */
int docr_experts_bf16(const bf16 *x, const i64 *chosen, const float *shares, const bf16 *gate_up,
                      const bf16 *down, bf16 *out, i64 R, i64 k, i64 E, i64 D, i64 F) {
    Matrix up = {gate_up, NULL, NULL}, back = {down, NULL, NULL};
    return experts(0, x, chosen, shares, up, back, out, R, k, E, D, F);
}

/* The same with 8-bit integers; scales and sums [E,2F] and [E,D]. D and F are multiples of 64. */
int docr_experts_int8(const bf16 *x, const i64 *chosen, const float *shares, const int8_t *gate_up,
                      const float *up_scales, const int32_t *up_sums, const int8_t *down,
                      const float *down_scales, const int32_t *down_sums, bf16 *out, i64 R, i64 k,
                      i64 E, i64 D, i64 F) {
    Matrix up = {gate_up, up_scales, up_sums}, back = {down, down_scales, down_sums};
    return experts(1, x, chosen, shares, up, back, out, R, k, E, D, F);
}

enum { QUERIES = 2, WIDEST = 8 }; /* queries at a time, and registers of a head of 128 */

/* The lanes below a number. */
INLINE __mmask16 below(i64 count) {
    return count >= 16 ? 0xffff : count <= 0 ? 0 : (__mmask16)((1u << count) - 1);
}

/* Adds up `count` queries' values: out[t][hd] = sum_j weights[t * room + j] v_j. */
INLINE void mix_values(int count, int registers, const float *weights, i64 room, i64 keys,
                       const bf16 *v, float *out) {
    __m512 sums[QUERIES][WIDEST];
    for (int t = 0; t < count; t++)
        for (int c = 0; c < registers; c++) sums[t][c] = _mm512_setzero_ps();
    for (i64 j = 0; j < keys; j++) {
        const bf16 *value = v + j * 16 * registers;
        for (int c = 0; c < registers; c += 2) prefetch((const char *)(value + 16 * c) + AHEAD);
        for (int c = 0; c < registers; c++) {
            __m512 part = widened(value + 16 * c);
            for (int t = 0; t < count; t++)
                sums[t][c] = _mm512_fmadd_ps(_mm512_set1_ps(weights[t * room + j]), part, sums[t][c]);
        }
    }
    for (int t = 0; t < count; t++)
        for (int c = 0; c < registers; c++)
            _mm512_storeu_ps(out + (t * registers + c) * 16, sums[t][c]);
}

/* One page's head: T queries (q_step apart), keys and values [.,hd] up to each one's position. */
static void attend_head(const bf16 *q, i64 q_step, const bf16 *k, const bf16 *v, bf16 *out,
                        i64 out_step, const i64 *positions, i64 T, i64 hd, float *weights) {
    int lines = (int)(hd / 32), registers = (int)(hd / 16);
    i64 keys = 0;
    for (i64 t = 0; t < T; t++) keys = positions[t] >= keys ? positions[t] + 1 : keys;
    i64 room = (keys + 15) / 16 * 16;
    float scale = 1 / sqrtf((float)hd);
    for (i64 j = 0; j < keys; j += 4) {
        for (int c = 0; c < 4 * lines; c++) prefetch((const char *)(k + j * hd + 32 * c) + AHEAD);
        for (i64 t = 0; t < T; t++) {
            __m512 sums[4];
            for (int i = 0; i < 4; i++) {
                const bf16 *key = k + (j + i < keys ? j + i : j) * hd;
                sums[i] = _mm512_setzero_ps();
                for (int c = 0; c < lines; c++)
                    sums[i] = _mm512_dpbf16_ps(
                        sums[i], (__m512bh)_mm512_loadu_si512(q + t * q_step + 32 * c),
                        (__m512bh)_mm512_loadu_si512(key + 32 * c));
            }
            __m128 four = (__m128)folded(0, (__m512i)sums[0], (__m512i)sums[1], (__m512i)sums[2],
                                         (__m512i)sums[3]);
            _mm_storeu_ps(weights + t * room + j, _mm_mul_ps(four, _mm_set1_ps(scale)));
        }
    }
    float totals[QUERIES], mixed[QUERIES * WIDEST * 16];
    for (i64 first = 0; first < T; first += QUERIES) {
        int count = T - first < QUERIES ? (int)(T - first) : QUERIES;
        for (int t = 0; t < count; t++) {
            float *row = weights + (first + t) * room;
            i64 seen = positions[first + t] + 1;
            __m512 most = _mm512_set1_ps(row[0]), sum = _mm512_setzero_ps();
            for (i64 j = 0; j < seen; j += 16)
                most = _mm512_mask_max_ps(most, below(seen - j), most, _mm512_loadu_ps(row + j));
            most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
            for (i64 j = 0; j < room; j += 16) {
                __m512 e = exponential(_mm512_sub_ps(_mm512_loadu_ps(row + j), most));
                e = _mm512_maskz_mov_ps(below(seen - j), e);
                sum = _mm512_add_ps(sum, e);
                _mm512_storeu_ps(row + j, e);
            }
            totals[t] = _mm512_reduce_add_ps(sum);
        }
        const float *these = weights + first * room;
        if (registers == 8)
            count == 1 ? mix_values(1, 8, these, room, keys, v, mixed)
                       : mix_values(2, 8, these, room, keys, v, mixed);
        else
            count == 1 ? mix_values(1, registers, these, room, keys, v, mixed)
                       : mix_values(2, registers, these, room, keys, v, mixed);
        for (int t = 0; t < count; t++)
            for (i64 c = 0; c < hd; c++)
                out[(first + t) * out_step + c] = narrow(mixed[t * hd + c] / totals[t]);
    }
}

/* Store k and v [B,H,T,hd] in the cache's keys and values [B,H,.,hd] at `positions` [B,T]; then the
   attention of q [B,H,T,hd], each query to the keys up to its position. out is [B,T,H,hd]. hd is
   32, 64, 96 or 128. Strides, of q, k, v and the cache, count elements. 0: no memory. */
int docr_attend_bf16(const bf16 *q, const bf16 *k, const bf16 *v, const i64 *strides, bf16 *keys,
                     bf16 *values, const i64 *positions, bf16 *out, i64 B, i64 H, i64 T, i64 hd) {
    const i64 *of_q = strides, *of_k = strides + 3, *of_v = strides + 6, *of_cache = strides + 9;
    i64 longest = 0;
    for (i64 i = 0; i < B * T; i++) longest = positions[i] >= longest ? positions[i] + 1 : longest;
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        i64 bytes = T * ((longest + 15) / 16 * 16) * (i64)sizeof(float);
        float *weights = aligned_alloc(LINE, bytes);
        failed = !weights;
#pragma omp for schedule(dynamic)
        for (i64 i = 0; i < B * H; i++) {
            i64 b = i / H, h = i % H, at = b * of_cache[0] + h * of_cache[1];
            if (!weights) continue;
            for (i64 t = 0; t < T; t++) {
                i64 to = at + positions[b * T + t] * hd;
                memcpy(keys + to, k + b * of_k[0] + h * of_k[1] + t * of_k[2], 2 * hd);
                memcpy(values + to, v + b * of_v[0] + h * of_v[1] + t * of_v[2], 2 * hd);
            }
            attend_head(q + b * of_q[0] + h * of_q[1], of_q[2], keys + at, values + at,
                        out + (b * T * H + h) * hd, H * hd, positions + b * T, T, hd, weights);
        }
        free(weights);
    }
    return !failed;
}

/* Rotate queries and keys of qkv [R,3,H,hd] by rotary [2,R,hd], cosines and sines, in place.
   hd is a multiple of 32. */
int docr_rotate_bf16(bf16 *qkv, const bf16 *rotary, i64 R, i64 H, i64 hd) {
    for (i64 row = 0; row < R; row++)
        for (i64 head = 0; head < 2 * H; head++)
            for (i64 c = 0; c < hd / 2; c += 16) {
                bf16 *at = qkv + (row * 3 * H + head) * hd + c;
                const bf16 *cosines = rotary + row * hd + c, *sines = cosines + R * hd;
                __m512 left = widened(at), right = widened(at + hd / 2);
                __m512 cosine = widened(cosines), sine = widened(sines);
                __m512 a = rounded(_mm512_mul_ps(left, cosine));
                __m512 b = rounded(_mm512_mul_ps(right, sine));
                __m512 e = rounded(_mm512_mul_ps(right, cosine));
                __m512 d = rounded(_mm512_mul_ps(left, sine));
                store(at, _mm512_sub_ps(a, b));
                store(at + hd / 2, _mm512_add_ps(e, d));
            }
    return 1;
}

/* Root mean square norm of x [R,D], times weight [D]. D is a multiple of 16. */
int docr_norm_bf16(const bf16 *x, const bf16 *weight, float eps, bf16 *out, i64 R, i64 D) {
    for (i64 row = 0; row < R; row++) {
        const bf16 *from = x + row * D;
        __m512 squares = _mm512_setzero_ps();
        for (i64 i = 0; i < D; i += 16) {
            __m512 part = widened(from + i);
            squares = _mm512_fmadd_ps(part, part, squares);
        }
        __m512 scale = _mm512_set1_ps(1 / sqrtf(_mm512_reduce_add_ps(squares) / (float)D + eps));
        for (i64 i = 0; i < D; i += 16) {
            __m512 part = rounded(_mm512_mul_ps(widened(from + i), scale));
            store(out + row * D + i, _mm512_mul_ps(part, widened(weight + i)));
        }
    }
    return 1;
}

/* The k likeliest of E experts for each row of x [R,D], by gate [E,D]: shares [R,k], chosen [R,k].
   D is a multiple of 16. 0: no memory. */
int docr_route_bf16(const bf16 *x, const float *gate, float *shares, i64 *chosen, i64 R, i64 k, i64 E,
                    i64 D) {
    i64 room = (E + 15) / 16 * 16;
    float *scores = aligned_alloc(LINE, room * sizeof(float));
    if (!scores) return 0;
    for (i64 row = 0; row < R; row++) {
        __m512 most = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
        for (i64 e = 0; e < E; e++) {
            __m512 sum = _mm512_setzero_ps(), other = sum;
            for (i64 i = 0; i < D; i += 32) {
                __m512 here = _mm512_loadu_ps(gate + e * D + i);
                sum = _mm512_fmadd_ps(widened(x + row * D + i), here, sum);
                if (i + 16 < D) {
                    __m512 next = _mm512_loadu_ps(gate + e * D + i + 16);
                    other = _mm512_fmadd_ps(widened(x + row * D + i + 16), next, other);
                }
            }
            scores[e] = _mm512_reduce_add_ps(_mm512_add_ps(sum, other));
        }
        for (i64 e = E; e < room; e++) scores[e] = -INFINITY;
        for (i64 e = 0; e < room; e += 16) most = _mm512_max_ps(most, _mm512_load_ps(scores + e));
        most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
        for (i64 e = 0; e < room; e += 16) {
            __m512 part = exponential(_mm512_sub_ps(_mm512_load_ps(scores + e), most));
            total = _mm512_add_ps(total, part);
            _mm512_store_ps(scores + e, part);
        }
        float sum = _mm512_reduce_add_ps(total);
        for (i64 c = 0; c < k; c++) {
            i64 best = -1;
            for (i64 e = 0; e < E; e++)
                if (scores[e] != -1 && (best < 0 || scores[e] > scores[best])) best = e;
            shares[row * k + c] = scores[best] / sum;
            chosen[row * k + c] = best;
            scores[best] = -1; /* taken */
        }
    }
    free(scores);
    return 1;
}
