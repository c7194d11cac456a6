/* Attention over a square grid with decomposed relative positions, as SAM's, for x86-64 with AVX512.

The twins, in PyTorch, are in ../grid_attention.py; what this saves is their bias of N x N. Keys are
taken sixteen at a time, from one row of the grid, so that the bias is a number for the row plus
sixteen for the columns. Softmax goes along, with the largest score so far; probabilities are rounded
to bf16, scores are not. Where there is a matrix unit (amx.h) it makes the products.

Shapes: B views, H heads, g side of the grid, N = g * g tokens, hd = 64 head dim.
*/

#include <stdlib.h>

#include "amx.h"

enum {
    HD = 64,
    PARTS = HD / 16,   /* registers of a head's fp32 */
    KEYS = 16,         /* in a group */
    GROUPS = 4,        /* at a time */
    STRIP = GROUPS * KEYS,
    GROUP = KEYS * HD, /* values of a group of keys */
    WIDEST = 128,      /* sides of the grid, at most */
#ifdef __AMX_BF16__
    QUERIES = SIDE,      /* of a tile */
    CHUNK = 2 * QUERIES, /* that share the keys' tiles */
#else
    QUERIES = 6,         /* at a time: 24 sums, as many registers */
    CHUNK = 4 * QUERIES, /* that pass over all keys together, so that these stay in the cache */
#endif
};

static const float NEVER = -1e30f;     /* a score that gives nothing */
static const float LOG2_E = 1.44269504f;

/* Queries on their way over the keys. What is exponentiated is in units of ln 2. */
typedef struct {
    bf16 q[CHUNK][HD];
    float sums[CHUNK][HD];
    float most[CHUNK], totals[CHUNK];
    float rows[CHUNK][WIDEST + 16], columns[CHUNK][WIDEST]; /* the bias */
} __attribute__((aligned(LINE))) Chunk;

/* Numbers `from` to `from + 15` of a bias of g, and NEVER behind its end. */
INLINE __m512 bias_at(const bf16 *bias, i64 g, i64 from) {
    const __mmask16 there = below(g - from);
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, bias + from));
    __m512 wide = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
    return _mm512_mask_mul_ps(_mm512_set1_ps(NEVER), there, wide, _mm512_set1_ps(LOG2_E));
}

/* A group of keys [16,hd] as [hd/2,16,2], and of values as [8,hd,2]: pairs lie together. Missing
   ones are zeros. */
static void pack(const bf16 *k, const bf16 *v, i64 step, i64 count, bf16 *keys, bf16 *values) {
    for (i64 half = 0; half < 2; half++) {
        __m512i words[KEYS];
        for (i64 j = 0; j < KEYS; j++)
            words[j] = j < count ? _mm512_loadu_si512(k + j * step + half * 32) : _mm512_setzero_si512();
        transpose(words);
        UNROLL
        for (i64 j = 0; j < KEYS; j++) _mm512_storeu_si512(keys + (half * KEYS + j) * 32, words[j]);
    }
    __m512i left = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7,
                                    38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    __m512i right = _mm512_add_epi16(left, _mm512_set1_epi16(16));
    for (i64 j = 0; j < KEYS; j += 2)
        for (i64 c = 0; c < HD; c += 32) {
            __m512i one = _mm512_setzero_si512(), other = one;
            if (j < count) one = _mm512_loadu_si512(v + j * step + c);
            if (j + 1 < count) other = _mm512_loadu_si512(v + (j + 1) * step + c);
            bf16 *to = values + j * HD + 2 * c;
            _mm512_storeu_si512(to, _mm512_permutex2var_epi16(one, left, other));
            _mm512_storeu_si512(to + 32, _mm512_permutex2var_epi16(one, right, other));
        }
}

/* The shares of one query's scores in what it has seen so far, with those of a strip of keys. */
INLINE void weigh(Chunk *chunk, int i, __m512 scores[GROUPS], i64 group, i64 wide, bf16 *shares) {
    const __m512 scale = _mm512_set1_ps(0.125f * LOG2_E); /* hd ** -0.5 */
    UNROLL
    for (int n = 0; n < GROUPS; n++) {
        __m512 columns = _mm512_loadu_ps(chunk->columns[i] + (group + n) % wide * KEYS);
        __m512 row = _mm512_set1_ps(chunk->rows[i][(group + n) / wide]);
        scores[n] = _mm512_add_ps(_mm512_fmadd_ps(scores[n], scale, columns), row);
    }
    __m512 most = _mm512_set1_ps(chunk->most[i]), total = _mm512_setzero_ps();
    __m512 here =
        _mm512_max_ps(_mm512_max_ps(scores[0], scores[1]), _mm512_max_ps(scores[2], scores[3]));
    if (_mm512_cmp_ps_mask(here, most, _CMP_GT_OQ)) { /* rare after the first strips */
        __m512 larger = _mm512_set1_ps(_mm512_reduce_max_ps(here));
        __m512 less = power_of_two(_mm512_sub_ps(most, larger));
        float *sums = chunk->sums[i];
        for (int c = 0; c < HD; c += 16)
            _mm512_storeu_ps(sums + c, _mm512_mul_ps(_mm512_loadu_ps(sums + c), less));
        chunk->totals[i] *= _mm512_cvtss_f32(less);
        chunk->most[i] = _mm512_cvtss_f32(larger);
        most = larger;
    }
    UNROLL
    for (int n = 0; n < GROUPS; n += 2) {
        __m512 one = power_of_two(_mm512_sub_ps(scores[n], most));
        __m512 other = power_of_two(_mm512_sub_ps(scores[n + 1], most));
        total = _mm512_add_ps(total, _mm512_add_ps(one, other));
        _mm512_storeu_si512(shares + n * KEYS, (__m512i)_mm512_cvtne2ps_pbh(other, one));
    }
    chunk->totals[i] += _mm512_reduce_add_ps(total);
}

#ifdef __AMX_BF16__

/* Tiles 0 to 3 += 32 rows of x, 64 long, times two tiles' columns of y: four chains at a time, for a
   product takes longer than the next one has to wait. Rows of y are y_row bytes apart, the second
   half of them y_half further, the other columns y_next. */
INLINE void multiply(const bf16 x[CHUNK][STRIP], const bf16 *y, i64 y_row, i64 y_half, i64 y_next) {
    const char *right = (const char *)y;
    WRITTEN();
    UNROLL
    for (int half = 0; half < 2; half++) {
        _tile_loadd(4, x[0] + half * STRIP / 2, sizeof *x);
        _tile_loadd(5, x[SIDE] + half * STRIP / 2, sizeof *x);
        _tile_loadd(6, right + half * y_half, y_row);
        _tile_loadd(7, right + half * y_half + y_next, y_row);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* Take a chunk over a strip of keys, of which `group` is the first. */
static void take(Chunk *chunk, i64 count, const bf16 *keys, const bf16 *values, i64 group, i64 wide) {
    float scores[CHUNK][STRIP] __attribute__((aligned(LINE)));
    bf16 shares[CHUNK][STRIP] __attribute__((aligned(LINE)));
    for (int n = 0; n < STRIP; n += 2 * KEYS) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        multiply(chunk->q, keys + n * HD, LINE, GROUP, 2 * GROUP);
        _tile_stored(0, scores[0] + n, sizeof *scores);
        _tile_stored(1, scores[SIDE] + n, sizeof *scores);
        _tile_stored(2, scores[0] + n + KEYS, sizeof *scores);
        _tile_stored(3, scores[SIDE] + n + KEYS, sizeof *scores);
    }
    for (int i = 0; i < count; i++) {
        __m512 row[GROUPS];
        for (int n = 0; n < GROUPS; n++) row[n] = _mm512_load_ps(scores[i] + n * KEYS);
        weigh(chunk, i, row, group, wide, shares[i]);
    }
    for (int c = 0; c < HD; c += 32) {
        float *sums = chunk->sums[0] + c, *others = chunk->sums[SIDE] + c;
        WRITTEN();
        _tile_loadd(0, sums, sizeof *chunk->sums);
        _tile_loadd(1, others, sizeof *chunk->sums);
        _tile_loadd(2, sums + 16, sizeof *chunk->sums);
        _tile_loadd(3, others + 16, sizeof *chunk->sums);
        multiply(shares, values + 2 * c, 4 * HD, 4 * GROUP, LINE);
        _tile_stored(0, sums, sizeof *chunk->sums);
        _tile_stored(1, others, sizeof *chunk->sums);
        _tile_stored(2, sums + 16, sizeof *chunk->sums);
        _tile_stored(3, others + 16, sizeof *chunk->sums);
    }
}

#else

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

/* Take a chunk over a strip of keys, of which `group` is the first, six queries at a time. */
static void take(Chunk *chunk, i64 count, const bf16 *keys, const bf16 *values, i64 group, i64 wide) {
    for (int first = 0; first < count; first += QUERIES) {
        __m512 scores[QUERIES][GROUPS], mixed[QUERIES][PARTS];
        bf16 shares[QUERIES][STRIP];
        for (int i = 0; i < QUERIES; i++)
            for (int n = 0; n < GROUPS; n++) scores[i][n] = _mm512_setzero_ps();
        multiply(scores, chunk->q[first], HD, keys, HD / 2, GROUP, 2 * KEYS);
        for (int i = 0; i < QUERIES; i++) weigh(chunk, first + i, scores[i], group, wide, shares[i]);
        for (int i = 0; i < QUERIES; i++)
            for (int c = 0; c < PARTS; c++)
                mixed[i][c] = _mm512_loadu_ps(chunk->sums[first + i] + 16 * c);
        multiply(mixed, shares[0], STRIP, values, STRIP / 2, 2 * KEYS, 2 * HD);
        for (int i = 0; i < QUERIES; i++)
            for (int c = 0; c < PARTS; c++)
                _mm512_storeu_ps(chunk->sums[first + i] + 16 * c, mixed[i][c]);
    }
}

#endif

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
        for (i64 j = 0; j < wide * KEYS; j += 16)
            _mm512_storeu_ps(chunk.columns[i] + j, bias_at(columns + query * g, g, j));
        for (i64 j = 0; j < g + GROUPS; j += 16)
            _mm512_storeu_ps(chunk.rows[i] + j, bias_at(rows + query * g, g, j));
    }
    for (i64 group = 0; group < groups; group += GROUPS)
        take(&chunk, count, keys + group * GROUP, values + group * GROUP, group, wide);
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
        open_tiles();
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
        close_tiles();
    }
    free(packed);
    return 1;
}
