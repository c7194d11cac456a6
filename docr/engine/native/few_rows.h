/* What layers.c takes from few_rows.c and beside.c; all return 0 where there is no memory. */

#pragma once

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
                     bf16 *values, const i64 *positions, bf16 *out, i64 B, i64 H, i64 T, i64 hd);
int docr_rotate_bf16(bf16 *qkv, const bf16 *rotary, i64 R, i64 H, i64 hd);
int docr_norm_bf16(const bf16 *x, const bf16 *weight, float eps, bf16 *out, i64 R, i64 D);
int docr_route_bf16(const bf16 *x, const float *gate, float *shares, i64 *chosen, i64 R, i64 k, i64 E,
                    i64 D);
