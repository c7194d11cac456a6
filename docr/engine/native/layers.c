/* A step of decoding through all layers in one call. The twin is ../model/decoder.py's Decoder.

With one page, calling what is here from Python an operator at a time took a tenth of a step.

Shapes: B pages, R rows, some of each page, D hidden size, H heads, hd head dim, E experts,
k choices a row, F an expert's width.
*/

#include <stdlib.h>

#include "products.h"

/* One layer's weights. */
typedef struct {
    const bf16 *input_norm, *post_attention_norm; /* [D] */
    Matrix qkv, out;                              /* [3D,D], [D,D] */
    Matrix gate_up, down;                         /* of the MLP or the shared experts: [2W,D], [D,W] */
    i64 width;                                    /* W */
    const float *gate;                            /* [E,D]; NULL: no routed experts */
    Matrix experts_gate_up, experts_down;         /* [E,2F,D], [E,D,F] */
} Layer;

typedef struct {
    i64 B, R, D, H, E, k, F;
} Sizes;

static void add(bf16 *x, const bf16 *y, i64 count) {
    for (i64 i = 0; i < count; i += 16)
        store(x + i, _mm512_add_ps(widened(x + i), widened(y + i)));
}

/* Hidden states x [R,D] after all layers, in place, and the final norm of them, out [R,D].

   rotary [2,R,hd]: cosines and sines; positions [R] and starts [B+1] as in docr_attend_bf16. cache: the
   keys [B,H,.,hd] of each layer and its values, strides: of page and head in all of them, in elements.
   D is a multiple of 32. 0: no memory. */
int docr_layers(const Layer *layers, i64 count, const bf16 *norm, float eps, const Sizes *sizes,
                bf16 *x, const bf16 *rotary, const i64 *positions, const i64 *starts, bf16 *const *cache,
                const i64 *strides, bf16 *out) {
    const Sizes s = *sizes;
    const i64 R = s.R, D = s.D, hd = D / s.H, wide = 3 * D;
    const i64 all[] = {hd, wide, hd, wide, hd, wide, strides[0], strides[1]};
    i64 *chosen = malloc(R * s.k * sizeof(i64));
    i64 *first = calloc(R, sizeof(i64)); /* a plain MLP is the first and only expert */
    float *shares = malloc(R * s.k * sizeof(float)), *whole = malloc(R * sizeof(float));
    bf16 *normed = malloc(R * (2 * D + wide + D) * sizeof(bf16));
    int done = chosen && first && shares && whole && normed;
    for (i64 row = 0; done && row < R; row++) whole[row] = 1;
    bf16 *mixed = normed + R * D, *more = mixed + R * D, *qkv = more + R * D;
    for (i64 i = 0; done && i < count; i++) {
        const Layer *layer = layers + i;
        docr_norm_bf16(x, layer->input_norm, eps, normed, R, D);
        done = docr_linear(normed, &layer->qkv, qkv, R, wide, D);
        docr_rotate_bf16(qkv, rotary, R, s.H, hd);
        done = done && docr_attend_bf16(qkv, qkv + D, qkv + 2 * D, all, cache[2 * i],
                                        cache[2 * i + 1], positions, starts, mixed, s.B, s.H, hd);
        done = done && docr_linear(mixed, &layer->out, normed, R, D, D);
        add(x, normed, R * D);
        docr_norm_bf16(x, layer->post_attention_norm, eps, normed, R, D);
        done = done && docr_experts(normed, first, whole, &layer->gate_up, &layer->down, mixed, R, 1,
                                    1, D, layer->width);
        if (layer->gate) {
            done = done && docr_route_bf16(normed, layer->gate, shares, chosen, R, s.k, s.E, D) &&
                   docr_experts(normed, chosen, shares, &layer->experts_gate_up,
                                &layer->experts_down, more, R, s.k, s.E, D, s.F);
            add(mixed, more, R * D);
        }
        add(x, mixed, R * D);
    }
    if (done) docr_norm_bf16(x, norm, eps, out, R, D);
    free(chosen);
    free(first);
    free(shares);
    free(whole);
    free(normed);
    return done;
}
