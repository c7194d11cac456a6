/* Attention over a square grid with decomposed relative positions, as SAM's, for x86-64 with AVX512.

The twins, in PyTorch, are in ../grid_attention.py; what this saves is their bias of N x N. Keys are
taken sixteen at a time, from one row of the grid, so that the bias is a number for the row plus
sixteen for the columns. Softmax goes along, with the largest score so far; probabilities are rounded
to bf16, scores are not.

Shapes: B views, H heads, g side of the grid, N = g * g tokens, hd = 64 head dim.
*/

#include <math.h>
#include <stdlib.h>

#include "lanes.h"

enum {
    HD = 64,
    PARTS = HD / 16,   /* registers of a head's fp32 */
    KEYS = 16,         /* in a group */
    GROUPS = 4,        /* at a time */
    QUERIES = 6,       /* at a time: 24 sums, as many registers */
    CHUNK = 4 * QUERIES, /* that pass over all keys together, so that these stay in the cache */
    GROUP = KEYS * HD, /* values of a group of keys */
    WIDEST = 128,      /* sides of the grid, at most */
};

static const float NEVER = -1e30f; /* a score that gives nothing */

/* Queries on their way over the keys. */
typedef struct {
    bf16 q[CHUNK][HD];
    float sums[CHUNK][HD];
    float most[CHUNK], totals[CHUNK];
    float rows[CHUNK][WIDEST + GROUPS], columns[CHUNK][WIDEST]; /* the bias */
} Chunk;

/* A group of keys [16,hd] as [hd/2,16,2], and of values as [8,hd,2]: pairs lie together. Missing
   ones are zeros. */
static void pack(const bf16 *k, const bf16 *v, i64 step, i64 count, bf16 *keys, bf16 *values) {
    uint32_t some_keys[KEYS][HD / 2] = {{0}}, turned[HD / 2][KEYS];
    bf16 some_values[KEYS][HD] = {{0}};
    for (i64 j = 0; j < count && j < KEYS; j++) {
        memcpy(some_keys[j], k + j * step, sizeof some_keys[j]);
        memcpy(some_values[j], v + j * step, sizeof some_values[j]);
    }
    for (i64 p = 0; p < HD / 2; p++)
        for (i64 j = 0; j < KEYS; j++) turned[p][j] = some_keys[j][p];
    memcpy(keys, turned, sizeof turned);
    for (i64 j = 0; j < KEYS; j += 2)
        for (i64 c = 0; c < HD; c++) {
            values[j * HD + 2 * c] = some_values[j][c];
            values[j * HD + 2 * c + 1] = some_values[j + 1][c];
        }
}

/* sums[i][n] += the product of pairs: `pairs` of them, those of row i of x (`step` apart) with
   register n of y. */
INLINE void multiply(__m512 sums[QUERIES][GROUPS], const bf16 *x, i64 step, const bf16 *y, i64 pairs,
                     i64 y_step, i64 y_pair) {
    for (i64 p = 0; p < pairs; p++) {
        __m512bh right[GROUPS];
        for (int n = 0; n < GROUPS; n++)
            right[n] = (__m512bh)_mm512_loadu_si512(y + n * y_step + p * y_pair);
        for (int i = 0; i < QUERIES; i++) {
            int32_t pair;
            memcpy(&pair, x + i * step + 2 * p, sizeof pair);
            __m512bh left = (__m512bh)_mm512_set1_epi32(pair);
            for (int n = 0; n < GROUPS; n++)
                sums[i][n] = _mm512_dpbf16_ps(sums[i][n], left, right[n]);
        }
    }
}

/* Take six queries of a chunk over four groups of keys, of which `group` is the first. */
static void take(Chunk *chunk, int first, const bf16 *keys, const bf16 *values, i64 group, i64 wide) {
    __m512 scores[QUERIES][GROUPS];
    for (int i = 0; i < QUERIES; i++)
        for (int n = 0; n < GROUPS; n++) scores[i][n] = _mm512_setzero_ps();
    multiply(scores, chunk->q[first], HD, keys, HD / 2, GROUP, 2 * KEYS);

    bf16 shares[QUERIES][GROUPS * KEYS];
    const __m512 scale = _mm512_set1_ps(0.125f); /* hd ** -0.5 */
    for (int i = 0; i < QUERIES; i++) {
        float *most = &chunk->most[first + i], *sums = chunk->sums[first + i];
        for (int n = 0; n < GROUPS; n++) {
            __m512 columns = _mm512_loadu_ps(chunk->columns[first + i] + (group + n) % wide * KEYS);
            __m512 row = _mm512_set1_ps(chunk->rows[first + i][(group + n) / wide]);
            scores[i][n] = _mm512_add_ps(_mm512_fmadd_ps(scores[i][n], scale, columns), row);
        }
        __m512 here = _mm512_max_ps(_mm512_max_ps(scores[i][0], scores[i][1]),
                                    _mm512_max_ps(scores[i][2], scores[i][3]));
        float larger = _mm512_reduce_max_ps(here);
        if (larger > *most) { /* rare after the first groups */
            __m512 less = exponential(_mm512_set1_ps(*most - larger));
            for (int c = 0; c < HD; c += 16)
                _mm512_storeu_ps(sums + c, _mm512_mul_ps(_mm512_loadu_ps(sums + c), less));
            chunk->totals[first + i] *= _mm512_cvtss_f32(less);
            *most = larger;
        }
        __m512 total = _mm512_setzero_ps();
        for (int n = 0; n < GROUPS; n++) {
            __m512 share = exponential(_mm512_sub_ps(scores[i][n], _mm512_set1_ps(*most)));
            total = _mm512_add_ps(total, share);
            store(shares[i] + 16 * n, share);
        }
        chunk->totals[first + i] += _mm512_reduce_add_ps(total);
    }

    __m512 mixed[QUERIES][GROUPS];
    for (int i = 0; i < QUERIES; i++)
        for (int c = 0; c < PARTS; c++) mixed[i][c] = _mm512_loadu_ps(chunk->sums[first + i] + 16 * c);
    multiply(mixed, shares[0], GROUPS * KEYS, values, GROUPS * KEYS / 2, 2 * KEYS, 2 * HD);
    for (int i = 0; i < QUERIES; i++)
        for (int c = 0; c < PARTS; c++) _mm512_storeu_ps(chunk->sums[first + i] + 16 * c, mixed[i][c]);
}

/* Queries `from` to `from + count` of one head over all its keys. */
static void attend(const bf16 *q, i64 step, const bf16 *keys, const bf16 *values, i64 groups,
                   const bf16 *rows, const bf16 *columns, i64 g, i64 from, i64 count, bf16 *out,
                   i64 out_step) {
    Chunk chunk;
    memset(chunk.sums, 0, sizeof chunk.sums);
    memset(chunk.totals, 0, sizeof chunk.totals);
    const i64 wide = (g + KEYS - 1) / KEYS; /* groups of a row of the grid */
    for (i64 i = 0; i < CHUNK; i++) {
        i64 query = from + (i < count ? i : 0);
        memcpy(chunk.q[i], q + query * step, sizeof chunk.q[i]);
        chunk.most[i] = NEVER;
        for (i64 j = 0; j < wide * KEYS; j++)
            chunk.columns[i][j] = j < g ? number(columns[query * g + j]) : NEVER;
        for (i64 j = 0; j < g + GROUPS; j++)
            chunk.rows[i][j] = j < g ? number(rows[query * g + j]) : NEVER;
    }
    for (i64 group = 0; group < groups; group += GROUPS)
        for (int first = 0; first < count; first += QUERIES)
            take(&chunk, first, keys + group * GROUP, values + group * GROUP, group, wide);
    for (i64 i = 0; i < count; i++) {
        __m512 total = _mm512_set1_ps(chunk.totals[i]);
        for (i64 c = 0; c < HD; c += 16)
            store(out + (from + i) * out_step + c,
                  _mm512_div_ps(_mm512_loadu_ps(chunk.sums[i] + c), total));
    }
}

/* out [B,N,H,hd] of q, k, v [B,H,N,hd] with the same strides, in elements, and the biases of rows and
   of columns [B,H,N,g]. 0: no memory. */
int docr_grid_bf16(const bf16 *q, const bf16 *k, const bf16 *v, const i64 *strides, const bf16 *rows,
                   const bf16 *columns, bf16 *out, i64 B, i64 H, i64 g) {
    const i64 N = g * g, wide = (g + KEYS - 1) / KEYS;
    const i64 groups = (g * wide + GROUPS - 1) / GROUPS * GROUPS, chunks = (N + CHUNK - 1) / CHUNK;
    const i64 step = strides[2], size = groups * GROUP;
    bf16 *packed = aligned_alloc(LINE, 2 * B * H * size * sizeof(bf16));
    if (!packed) return 0;
    bf16 *keys = packed, *values = packed + B * H * size;
#pragma omp parallel
    {
#pragma omp for
        for (i64 i = 0; i < B * H * groups; i++) {
            i64 head = i / groups, group = i % groups, row = group / wide, column = group % wide * KEYS;
            i64 from = head / H * strides[0] + head % H * strides[1] + (row * g + column) * step;
            i64 count = row < g ? g - column : 0;
            pack(k + from, v + from, step, count, keys + i * GROUP, values + i * GROUP);
        }
#pragma omp for schedule(dynamic)
        for (i64 i = 0; i < B * H * chunks; i++) {
            i64 head = i / chunks, from = i % chunks * CHUNK, count = N - from < CHUNK ? N - from : CHUNK;
            i64 b = head / H, h = head % H;
            attend(q + b * strides[0] + h * strides[1], step, keys + head * size,
                   values + head * size, groups, rows + head * N * g, columns + head * N * g, g, from,
                   count, out + (b * N * H + h) * HD, H * HD);
        }
    }
    free(packed);
    return 1;
}
