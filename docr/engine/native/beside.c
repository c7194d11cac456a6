/* What a step of decoding does beside products with matrices: attention of a few queries, norms,
rotation, the choice of experts and of tokens.

For x86-64 with AVX512 in bf16. The twins, in PyTorch, are in ../model/decoder.py and ../sampling.py.
bf16 is rounded where they round it, except within attention, where it is not. For a few rows each of
PyTorch's operators takes longer to call than to run.

Shapes: R rows, E experts, k choices a row, D hidden size, B pages, H heads, hd head dim, T queries of
a page.
*/

#include <math.h>
#include <stdlib.h>

#include "products.h"

enum { QUERIES = 2, WIDEST = 8 }; /* queries at a time, and registers of a head of 128 */

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
            __m128 four = folded(sums[0], sums[1], sums[2], sums[3]);
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

/* Store k and v [H,R,hd] in the cache's keys and values [B,H,.,hd] at `positions` [R], then the
   attention of q [H,R,hd], each query to the keys up to its position. Rows starts[b] to
   starts[b + 1] - 1 are page b's. out is [R,H,hd]; hd is 32, 64, 96 or 128. Strides count elements:
   those of head and row of q, k and v, of page and head of the cache. 0: no memory. */
int docr_attend_bf16(const bf16 *q, const bf16 *k, const bf16 *v, const i64 *strides, bf16 *keys,
                     bf16 *values, const i64 *positions, const i64 *starts, bf16 *out, i64 B, i64 H,
                     i64 hd) {
    const i64 *of_q = strides, *of_k = strides + 2, *of_v = strides + 4, *of_cache = strides + 6;
    i64 longest = 0, most = 0;
    for (i64 i = 0; i < starts[B]; i++) longest = positions[i] >= longest ? positions[i] + 1 : longest;
    for (i64 b = 0; b < B; b++)
        most = starts[b + 1] - starts[b] > most ? starts[b + 1] - starts[b] : most;
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        i64 bytes = most * ((longest + 15) / 16 * 16) * (i64)sizeof(float);
        float *weights = aligned_alloc(LINE, bytes);
        failed = !weights;
#pragma omp for schedule(dynamic)
        for (i64 i = 0; i < B * H; i++) {
            const i64 b = i / H, h = i % H, at = b * of_cache[0] + h * of_cache[1];
            const i64 first = starts[b], end = starts[b + 1];
            if (!weights) continue;
            for (i64 row = first; row < end; row++) {
                i64 to = at + positions[row] * hd;
                memcpy(keys + to, k + h * of_k[0] + row * of_k[1], 2 * hd);
                memcpy(values + to, v + h * of_v[0] + row * of_v[1], 2 * hd);
            }
            attend_head(q + h * of_q[0] + first * of_q[1], of_q[1], keys + at, values + at,
                        out + (first * H + h) * hd, H * hd, positions + first, end - first, hd,
                        weights);
        }
        free(weights);
    }
    return !failed;
}

/* Rotate queries and keys of qkv [R,3,H,hd] by rotary [2,R,hd], cosines and sines, in place.
   hd is a multiple of 32. */
int docr_rotate_bf16(bf16 *qkv, const bf16 *rotary, i64 R, i64 H, i64 hd) {
#pragma omp parallel for if (R > 1)
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
#pragma omp parallel for if (R > 1)
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
    float *all = aligned_alloc(LINE, R * room * sizeof(float));
    if (!all) return 0;
#pragma omp parallel for if (R > 1)
    for (i64 row = 0; row < R; row++) {
        float *scores = all + row * room;
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
    free(all);
    return 1;
}

/* The largest of a row [V], and where: the first of equals. Those left out do not count. */
static float largest(const float *row, const uint8_t *left_out, i64 V, i64 *where) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    __m512i place = _mm512_setzero_si512(), here = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10,
                                                                     11, 12, 13, 14, 15);
    for (i64 i = 0; i < V; i += 16) {
        __mmask16 there = below(V - i);
        __m128i out = _mm_maskz_loadu_epi8(there, left_out + i);
        there = _mm_mask_testn_epi8_mask(there, out, out);
        __m512 part = _mm512_mask_loadu_ps(most, there, row + i);
        __mmask16 more = _mm512_cmp_ps_mask(part, most, _CMP_GT_OQ);
        most = _mm512_mask_mov_ps(most, more, part);
        place = _mm512_mask_mov_epi32(place, more, here);
        here = _mm512_add_epi32(here, _mm512_set1_epi32(16));
    }
    float found = _mm512_reduce_max_ps(most);
    __mmask16 best = _mm512_cmp_ps_mask(most, _mm512_set1_ps(found), _CMP_EQ_OQ);
    *where = _mm512_mask_reduce_min_epu32(best, place);
    return found;
}

/* The likeliest token of each row of logits [R,V] and its log-probability. Tokens left out [V] have
   none; those that are banned, of row r from ends[r - 1] to ends[r], have one but are not taken, and
   their logits become -inf. */
int docr_pick(float *logits, const uint8_t *left_out, const i64 *banned, const i64 *ends, i64 *tokens,
              float *logprobs, i64 R, i64 V) {
#pragma omp parallel for schedule(dynamic)
    for (i64 row = 0; row < R; row++) {
        float *here = logits + row * V;
        i64 where;
        __m512 most = _mm512_set1_ps(largest(here, left_out, V, &where));
        __m512 total = _mm512_setzero_ps();
        __mmask16 no_number = 0;
        for (i64 i = 0; i < V; i += 16) {
            __mmask16 there = below(V - i);
            __m128i out = _mm_maskz_loadu_epi8(there, left_out + i);
            there = _mm_mask_testn_epi8_mask(there, out, out);
            __m512 part = _mm512_sub_ps(_mm512_maskz_loadu_ps(there, here + i), most);
            no_number |= _mm512_mask_cmp_ps_mask(there, part, part, _CMP_UNORD_Q);
            total = _mm512_mask_add_ps(total, there, total, exponential(part));
        }
        i64 first = row ? ends[row - 1] : 0;
        for (i64 i = first; i < ends[row]; i++) here[banned[i]] = -INFINITY;
        float chosen = _mm512_cvtss_f32(most);
        if (ends[row] > first) chosen = largest(here, left_out, V, &where);
        tokens[row] = where;
        chosen -= _mm512_cvtss_f32(most) + logf(_mm512_reduce_add_ps(total));
        logprobs[row] = no_number ? NAN : chosen;
    }
    return 1;
}
