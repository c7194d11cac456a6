/* Products with large matrices on the matrix unit of Intel's processors (AMX), for any number of rows.

The unit multiplies tiles of 16 x 64 bytes: 16 rows of a matrix, as the checkpoint holds them, by 16
rows of x whose words have been transposed. So the matrix stays where it is, x is packed once, and a
tile of sums has a row for each of the matrix's rows and a column for each of x's.

Up to 16 rows of x cost the same, and less than reading the matrix does. A row's result depends
neither on the rows beside it nor on its column. In 8 bits it is that of few_rows.c, in bf16 sums are
made in another order.

Shapes: as in few_rows.c; a panel is 16 packed rows of x, [K/2][16][2], and in 8 bits [K/4][16][4].
*/

#include "amx.h"
#include "products.h"

#ifdef __AMX_BF16__

#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    SHARED = 32,  /* rows of x that are packed once for all experts */
    REQUEST = 0x1023, TILE_DATA = 18, /* ARCH_REQ_XCOMP_PERM of arch_prctl(2), and what for */
};

/* Ask the system for the unit's registers, once a process. 0: they are not to be had. */
int docr_open_amx(void) { return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0; }

/* Sums of two times 16 rows of a matrix and two panels: [its 16][panel][its row][column]. */
typedef float Sums[2][2][SIDE][SIDE] __attribute__((aligned(LINE)));

/* 16 rows of a matrix, and what is prefetched while they are read, as many bytes; NULL: nothing. */
typedef struct {
    const char *rows, *next;
} Left;

#define MULTIPLY(sums, left, right)            \
    do {                                       \
        if (eight)                             \
            _tile_dpbsud(sums, left, right);   \
        else                                   \
            _tile_dpbf16ps(sums, left, right); \
    } while (0)

/* Of rows of so many bytes, with one panel or two; in 8 bits sums are integers. */
INLINE void product(int eight, int two, const Left *a, const char *one, const char *other, i64 bytes,
                    Sums sums) {
    const int every = two ? 1 : 8; /* with little to compute, processors go on by themselves */
    WRITTEN();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (i64 at = 0; at < bytes; at += LINE) {
        for (int side = 0; side < 2; side++)
            for (int i = 0; a[side].next && i < SIDE; i += every)
                prefetch(a[side].next + SIDE * at + i * LINE);
        _tile_loadd(6, one + SIDE * at, LINE);
        _tile_loadd(4, a[0].rows + at, bytes);
        MULTIPLY(0, 4, 6);
        _tile_loadd(5, a[1].rows + at, bytes);
        MULTIPLY(2, 5, 6);
        if (two) {
            _tile_loadd(7, other + SIDE * at, LINE);
            MULTIPLY(1, 4, 7);
            MULTIPLY(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0][0], LINE);
    _tile_stored(2, sums[1][0], LINE);
    if (two) {
        _tile_stored(1, sums[0][1], LINE);
        _tile_stored(3, sums[1][1], LINE);
    }
}

static void products(int eight, int two, const Left *a, const char *one, const char *other, i64 bytes,
                     Sums sums) {
    if (eight)
        two ? product(1, 1, a, one, other, bytes, sums) : product(1, 0, a, one, other, bytes, sums);
    else
        two ? product(0, 1, a, one, other, bytes, sums) : product(0, 0, a, one, other, bytes, sums);
}

/* Rows n to n + 31 of a matrix that a thread reads up to `end`, and at `after` then; of 16 that are
   left the second half is the first once more. */
INLINE void two_of(const char *matrix, i64 n, i64 end, i64 bytes, const char *after, Left a[2]) {
    for (int i = 0; i < 2; i++, n += n + SIDE < end ? SIDE : 0) {
        const i64 next = n + 2 * SIDE, beyond = (next - end) * bytes;
        a[i].rows = matrix + n * bytes;
        a[i].next = next < end ? matrix + next * bytes : after ? after + beyond : NULL;
    }
}

/* Row i of sums, those of row n + i of a matrix, times what integers of it and of x stand for. */
INLINE __m512 scaled(int eight, const float sums[SIDE][SIDE], Matrix w, i64 n, int i,
                     const float *scales) {
    __m512 row = _mm512_load_ps(sums[i]);
    if (!eight) return row;
    __m512i shift = _mm512_set1_epi32(w.sums[n + i] * 128); /* zero of x */
    row = _mm512_cvtepi32_ps(_mm512_sub_epi32((__m512i)row, shift));
    return _mm512_mul_ps(_mm512_mul_ps(row, _mm512_loadu_ps(scales)), _mm512_set1_ps(w.scales[n + i]));
}

/* A panel of `count` rows of x, of so many bytes: those that `which` names, or those from `from` on.
   The others are zeros. */
static void pack(const char *x, i64 bytes, const i64 *which, i64 from, int count, char *panel) {
    const char *rows[SIDE];
    for (int i = 0; i < count; i++) rows[i] = x + (which ? which[i] : from + i) * bytes;
    for (i64 at = 0; at < bytes; at += LINE) {
        __m512i lines[SIDE];
        for (int i = 0; i < SIDE; i++)
            lines[i] = i < count ? _mm512_loadu_si512(rows[i] + at) : _mm512_setzero_si512();
        transpose(lines);
        UNROLL
        for (int i = 0; i < SIDE; i++) _mm512_storeu_si512(panel + SIDE * at + i * LINE, lines[i]);
    }
}

/* 16 columns of sums, each a row now, rounded to bf16. */
INLINE void columns_of(int eight, const float sums[SIDE][SIDE], Matrix w, i64 n, const float *scales,
                       __m512i columns[SIDE]) {
    UNROLL
    for (int i = 0; i < SIDE; i++)
        columns[i] = (__m512i)rounded(scaled(eight, sums, w, n, i, scales));
    transpose(columns);
}

INLINE int side_of(i64 left) { return left < SIDE ? (int)left : SIDE; }

INLINE int linear(int eight, const bf16 *x, Matrix w, bf16 *out, i64 R, i64 N, i64 K) {
    const i64 bytes = eight ? K : 2 * K, panels = (R + SIDE - 1) / SIDE, panel = SIDE * bytes;
    char *memory = aligned_alloc(LINE, panels * (2 * panel + LINE) + LINE);
    if (!memory) return 0;
    char *at = memory, *packed = take(&at, panels * panel);
    float *scales = take(&at, panels * SIDE * sizeof(float));
    uint8_t *small = take(&at, eight ? R * K : 0);
#pragma omp parallel
    {
        open_tiles();
        if (eight) {
#pragma omp for
            for (i64 row = 0; row < R; row++) scales[row] = quantize(x + row * K, K, small + row * K);
        }
#pragma omp for
        for (i64 p = 0; p < panels; p++)
            pack(eight ? (char *)small : (const char *)x, bytes, NULL, p * SIDE,
                 side_of(R - p * SIDE), packed + p * panel);
        i64 begin, end;
        part_of(N, SIDE, &begin, &end);
        for (i64 n = begin; n < end; n += 2 * SIDE) {
            Left a[2];
            two_of(w.values, n, end, bytes, NULL, a);
            for (i64 p = 0; p < panels; p += 2) {
                const char *one = packed + p * panel;
                Sums sums;
                products(eight, p + 1 < panels, a, one, one + panel, bytes, sums);
                a[0].next = a[1].next = NULL;
                for (i64 row = p * SIDE; row < R && row < (p + 2) * SIDE; row += SIDE)
                    for (i64 top = n; top < end && top < n + 2 * SIDE; top += SIDE) {
                        __m512i columns[SIDE];
                        columns_of(eight, sums[top > n][row / SIDE % 2], w, top, scales + row, columns);
                        for (i64 i = 0; i < side_of(R - row); i++)
                            store(out + (row + i) * N + top, (__m512)columns[i]);
                    }
            }
        }
        close_tiles();
    }
    free(memory);
    return 1;
}

int amx_linear(const bf16 *x, const Matrix *w, bf16 *out, i64 R, i64 N, i64 K) {
    return w->scales ? linear(1, x, *w, out, R, N, K) : linear(0, x, *w, out, R, N, K);
}

/* Rows of x that have chosen an expert, up to 16, in the columns of a panel. */
typedef struct {
    char *x, *hidden; /* packed */
    int count, columns[SIDE];
    i64 rows[SIDE];
    float shares[SIDE], x_scales[SIDE], hidden_scales[SIDE];
} Panel;

/* A call: the panels of e are panels[first[e]] to panels[first[e + 1] - 1]; x's, and what is hidden. */
typedef struct {
    Matrix gate_up, down;
    i64 R, E, D, F, bytes, hidden_bytes; /* of a row */
    i64 *starts, *first;
    Panel *panels;
    char *packed, *hidden;
} Call;

/* Panels for all choices. With few rows all experts have the same ones of x, and rows that have not
   chosen an expert are computed in vain. */
INLINE void lay_panels(Call *call, const i64 *order, const float *shares, i64 k) {
    i64 used = 0;
    for (i64 e = 0; e < call->E; e++) {
        const i64 begin = call->starts[e], end = call->starts[e + 1];
        call->first[e] = used;
        for (i64 s = begin, before = -1, own; s < end; s++, before = own) {
            const i64 row = order[s] / k;
            const int shared = call->R <= SHARED;
            own = shared ? row / SIDE : (s - begin) / SIDE;
            if (own != before) {
                char *x = call->packed + (shared ? own : used) * SIDE * call->bytes;
                char *hidden = call->hidden + used * SIDE * 2 * call->F;
                call->panels[used++] = (Panel){.x = x, .hidden = hidden};
            }
            Panel *panel = call->panels + used - 1;
            panel->columns[panel->count] = shared ? row % SIDE : panel->count;
            panel->shares[panel->count] = shares[order[s]];
            panel->rows[panel->count++] = row;
        }
    }
    call->first[call->E] = used;
}

/* The gates' and ups' sums of rows f to f + 15 become lines of what is hidden, [F/2][16][2]. */
INLINE void activate(int eight, const float gates[SIDE][SIDE], const float ups[SIDE][SIDE], Matrix w,
                     i64 F, i64 f, Panel *panel) {
    for (int i = 0; i < SIDE; i += 2) {
        __m512i both[2];
        UNROLL
        for (int j = 0; j < 2; j++) {
            __m512 gate = rounded(scaled(eight, gates, w, f, i + j, panel->x_scales));
            __m512 up = rounded(scaled(eight, ups, w, F + f, i + j, panel->x_scales));
            __m512 decay = exponential(_mm512_sub_ps(_mm512_setzero_ps(), gate));
            __m512 silu = _mm512_div_ps(gate, _mm512_add_ps(_mm512_set1_ps(1), decay));
            both[j] = (__m512i)rounded(_mm512_mul_ps(rounded(silu), up));
        }
        _mm512_store_si512(panel->hidden + (f + i) / 2 * LINE,
                           _mm512_or_si512(_mm512_srli_epi32(both[0], 16), both[1]));
    }
}

/* What is hidden [F/2][16][2] as u8 [F/4][16][4], in place, and what a step stands for. */
static void quantize_hidden(Panel *panel, i64 F) {
    const __m512i high = _mm512_set1_epi32(0xffff0000), byte = _mm512_set1_epi32(255);
    char *hidden = panel->hidden;
    __m512 most = _mm512_setzero_ps();
    for (i64 f = 0; f < F; f += 2) {
        __m512i pair = _mm512_load_si512(hidden + f / 2 * LINE);
        most = _mm512_max_ps(most, _mm512_abs_ps((__m512)_mm512_slli_epi32(pair, 16)));
        most = _mm512_max_ps(most, _mm512_abs_ps((__m512)_mm512_and_si512(pair, high)));
    }
    __m512 scale = _mm512_div_ps(_mm512_max_ps(most, _mm512_set1_ps(1e-12f)), _mm512_set1_ps(127));
    __m512 inverse = _mm512_div_ps(_mm512_set1_ps(1), scale);
    _mm512_storeu_ps(panel->hidden_scales, scale);
    for (i64 f = 0; f < F; f += 4) {
        __m512i four = _mm512_setzero_si512();
        for (int i = 0; i < 4; i++) {
            __m512i pair = _mm512_load_si512(hidden + (f + i) / 2 * LINE);
            pair = i % 2 ? _mm512_and_si512(pair, high) : _mm512_slli_epi32(pair, 16);
            __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps((__m512)pair, inverse));
            whole = _mm512_and_si512(_mm512_add_epi32(whole, _mm512_set1_epi32(128)), byte);
            four = _mm512_or_si512(four, _mm512_slli_epi32(whole, 8 * i));
        }
        _mm512_store_si512(hidden + f / 4 * LINE, four);
    }
}

/* What is hidden of all experts, for this thread's part of F. */
INLINE void hide(int eight, const Call *call, const char *down) {
    const i64 D = call->D, F = call->F, bytes = call->bytes;
    Sums sums;
    i64 begin, end;
    part_of(F, SIDE, &begin, &end);
    for (i64 e = chosen_from(call->starts, 0, call->E), next; e < call->E; e = next) {
        next = chosen_from(call->starts, e + 1, call->E);
        const Matrix w = of_expert(eight, call->gate_up, e, 2 * F, D);
        const char *values = w.values;
        const char *after = row_of_expert(eight, call->gate_up, next, 2 * F, D, begin);
        for (i64 f = begin; f < end; f += SIDE) {
            const char *ahead = f + SIDE < end ? values + (f + SIDE) * bytes : after;
            Left a[2] = {{values + f * bytes, ahead}, {values + (F + f) * bytes, ahead + F * bytes}};
            if (f + SIDE >= end && next == call->E) a[0].next = down, a[1].next = NULL;
            for (i64 p = call->first[e]; p < call->first[e + 1]; p += 2) {
                const int two = p + 1 < call->first[e + 1];
                Panel *panel = call->panels + p;
                products(eight, two, a, panel->x, panel[two].x, bytes, sums);
                a[0].next = a[1].next = NULL;
                for (int i = 0; i <= two; i++)
                    activate(eight, sums[0][i], sums[1][i], w, F, f, panel + i);
            }
        }
    }
}

/* Adds the panel's columns of sums, rounded, times a share each, to mixed [R,D] from d on. */
INLINE void mix(int eight, const float sums[SIDE][SIDE], Matrix w, i64 d, const Panel *panel,
                float *mixed, i64 D) {
    __m512i columns[SIDE];
    columns_of(eight, sums, w, d, panel->hidden_scales, columns);
    for (int i = 0; i < panel->count; i++) {
        float *to = mixed + panel->rows[i] * D + d;
        __m512 share = _mm512_set1_ps(panel->shares[i]), column = (__m512)columns[panel->columns[i]];
        _mm512_storeu_ps(to, _mm512_fmadd_ps(share, column, _mm512_loadu_ps(to)));
    }
}

/* Columns from `begin` to `end` of mixed [R,D]: what all experts make of what is hidden. */
INLINE void mix_all(int eight, const Call *call, i64 begin, i64 end, float *mixed) {
    const i64 D = call->D, F = call->F, bytes = call->hidden_bytes;
    Sums sums;
    for (i64 row = 0; row < call->R; row++)
        memset(mixed + row * D + begin, 0, (end - begin) * sizeof(float));
    for (i64 e = chosen_from(call->starts, 0, call->E), next; e < call->E; e = next) {
        next = chosen_from(call->starts, e + 1, call->E);
        const Matrix w = of_expert(eight, call->down, e, D, F);
        const char *after = row_of_expert(eight, call->down, next, D, F, begin);
        for (i64 d = begin; d < end; d += 2 * SIDE) {
            Left a[2];
            two_of(w.values, d, end, bytes, next < call->E ? after : NULL, a);
            for (i64 p = call->first[e]; p < call->first[e + 1]; p += 2) {
                const int two = p + 1 < call->first[e + 1];
                const Panel *panel = call->panels + p;
                products(eight, two, a, panel->hidden, panel[two].hidden, bytes, sums);
                a[0].next = a[1].next = NULL;
                for (int i = 0; i <= two; i++)
                    for (i64 n = d; n < end && n < d + 2 * SIDE; n += SIDE)
                        mix(eight, sums[n > d][i], w, n, panel + i, mixed, D);
            }
        }
    }
}

INLINE int experts(int eight, const bf16 *x, const i64 *chosen, const float *shares, Matrix gate_up,
                   Matrix down, bf16 *out, i64 R, i64 k, i64 E, i64 D, i64 F) {
    const i64 choices = R * k, by_expert = E + (R <= SHARED ? E : choices / SIDE);
    const i64 most = choices < by_expert ? choices : by_expert; /* panels */
    Call call = {gate_up, down, R, E, D, F, eight ? D : 2 * D, eight ? F : 2 * F};
    const i64 packed_bytes = SIDE * call.bytes;
    i64 room = (2 * (E + 1) + choices) * 8 + most * (sizeof(Panel) + SIDE * 2 * F) +
               (most + SHARED / SIDE) * packed_bytes + R * D * (4 + 1) + R * 4;
    char *memory = aligned_alloc(LINE, (room / LINE + 16) * LINE); /* 9 pieces, each rounded up */
    if (!memory) return 0;
    char *at = memory;
    call.starts = take(&at, (E + 1) * sizeof(i64)), call.first = take(&at, (E + 1) * sizeof(i64));
    call.panels = take(&at, most * sizeof(Panel));
    call.hidden = take(&at, most * SIDE * 2 * F);
    call.packed = take(&at, (most + SHARED / SIDE) * packed_bytes);
    i64 *order = take(&at, choices * sizeof(i64));
    float *mixed = take(&at, R * D * sizeof(float));
    uint8_t *small = take(&at, eight ? R * D : 0);
    float *scales = take(&at, R * sizeof(float));
    sort_choices(chosen, choices, E, call.starts, order);
    lay_panels(&call, order, shares, k);
    const i64 panels = call.first[E], top = chosen_from(call.starts, 0, E);
#pragma omp parallel
    {
        i64 begin, end;
        part_of(D, SIDE, &begin, &end); /* of outputs */
        open_tiles();
        if (eight) {
#pragma omp for
            for (i64 row = 0; row < R; row++) scales[row] = quantize(x + row * D, D, small + row * D);
#pragma omp for
            for (i64 p = 0; p < panels; p++)
                for (int i = 0; i < call.panels[p].count; i++)
                    call.panels[p].x_scales[call.panels[p].columns[i]] = scales[call.panels[p].rows[i]];
        }
#pragma omp for
        for (i64 p = 0; p < (R <= SHARED ? (R + SIDE - 1) / SIDE : panels); p++) {
            const i64 *which = R <= SHARED ? NULL : call.panels[p].rows;
            const int count = which ? call.panels[p].count : side_of(R - p * SIDE);
            pack(eight ? (char *)small : (const char *)x, call.bytes, which, p * SIDE, count,
                 call.packed + p * packed_bytes);
        }
        hide(eight, &call, row_of_expert(eight, down, top, D, F, begin));
#pragma omp barrier
        if (eight) {
#pragma omp for
            for (i64 p = 0; p < panels; p++) quantize_hidden(call.panels + p, F);
        }
        mix_all(eight, &call, begin, end, mixed);
        for (i64 row = 0; row < R; row++)
            for (i64 d = begin; d < end; d += SIDE)
                store(out + row * D + d, _mm512_loadu_ps(mixed + row * D + d));
        close_tiles();
    }
    free(memory);
    return 1;
}

int amx_experts(const bf16 *x, const i64 *chosen, const float *shares, const Matrix *gate_up,
                const Matrix *down, bf16 *out, i64 R, i64 k, i64 E, i64 D, i64 F) {
    return gate_up->scales ? experts(1, x, chosen, shares, *gate_up, *down, out, R, k, E, D, F)
                           : experts(0, x, chosen, shares, *gate_up, *down, out, R, k, E, D, F);
}

#endif
