/* Pillow's bicubic resizing of 8-bit RGB, to the last bit, for x86-64 with AVX2. The twin is Pillow.

Pillow weighs pixels in fixed point, along rows or columns, rounds to 8 bits, and goes along the
others. So does this, sixteen at a time: rows are turned over in blocks of sixteen, so that the sums
of sixteen rows go along together, and turned back. Only so many are kept as the columns' sums need.
*/

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;
typedef int64_t i64;

enum {
    LANES = 16,
    CHANNELS = 3,
    BITS = 32 - 8 - 2, /* of a weight behind the point; Source: Pillow, Resample.c */
};

/* What one side of the page is made of: output i is the sum over j < counts[i] of weights[i * taps + j]
   times the input at starts[i] + j. */
typedef struct {
    i64 taps;
    i64 *starts, *counts;
    int32_t *weights;
} Side;

static double bicubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

static void free_side(Side *side) {
    free(side->starts);
    free(side->weights);
}

/* The weights of a side, as Pillow rounds them. Returns whether there was memory. */
static int make_side(Side *side, i64 from, i64 to) {
    const double scale = (double)from / (double)to, wide = scale < 1.0 ? 1.0 : scale;
    const double support = 2.0 * wide, narrow = 1.0 / wide;
    side->taps = 2 * (i64)ceil(support) + 1;
    side->starts = malloc(2 * to * sizeof(i64));
    side->weights = malloc(to * side->taps * sizeof(int32_t));
    double *exact = malloc(side->taps * sizeof(double));
    if (side->starts && side->weights && exact) {
        side->counts = side->starts + to;
        for (i64 i = 0; i < to; i++) {
            const double centre = (i + 0.5) * scale;
            i64 first = (i64)(centre - support + 0.5), end = (i64)(centre + support + 0.5);
            first = first < 0 ? 0 : first;
            end = end > from ? from : end;
            double sum = 0;
            for (i64 j = 0; j < end - first; j++)
                sum += exact[j] = bicubic((j + first - centre + 0.5) * narrow);
            const double share = sum == 0 ? 1.0 : 1.0 / sum;
            for (i64 j = 0; j < end - first; j++) {
                const double weight = exact[j] * share * (1 << BITS);
                side->weights[i * side->taps + j] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
            }
            side->starts[i] = first;
            side->counts[i] = end - first;
        }
        free(exact);
        return 1;
    }
    free(exact);
    free_side(side);
    return 0;
}

typedef struct {
    __m256i low, high; /* i32 x 8 each */
} Sums;

/* Sixteen sums go on: `count` neighbours, `step` bytes from one to the next. */
static inline Sums add(Sums sums, const u8 *from, i64 step, const int32_t *weights, i64 count) {
    for (i64 j = 0; j < count; j++, from += step) {
        const __m256i weight = _mm256_set1_epi32(weights[j]);
        const __m256i low = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
        const __m256i high = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(from + 8)));
        sums.low = _mm256_add_epi32(sums.low, _mm256_mullo_epi32(low, weight));
        sums.high = _mm256_add_epi32(sums.high, _mm256_mullo_epi32(high, weight));
    }
    return sums;
}

static inline Sums half(void) {
    const __m256i half = _mm256_set1_epi32(1 << (BITS - 1));
    return (Sums){half, half};
}

/* Sixteen sums as bytes, 0 to 255. */
static inline void store(u8 *to, Sums sums) {
    const __m256i low = _mm256_srai_epi32(sums.low, BITS), high = _mm256_srai_epi32(sums.high, BITS);
    /* Packing takes the two halves of its operands apart. */
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
    const __m128i bytes =
        _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)to, bytes);
}

/* out[i][j] = in[j][i] of 16 x 16 bytes. */
static inline void turn(const u8 *in, i64 in_step, u8 *out, i64 out_step) {
    __m128i a[LANES], b[LANES];
    for (int i = 0; i < LANES; i++)
        a[i] = _mm_loadu_si128((const __m128i *)(in + i * in_step));
    for (int round = 0; round < 4; round++) { /* each deals the rows out like two halves of a pack */
        for (int i = 0; i < LANES / 2; i++) {
            b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + LANES / 2]);
            b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + LANES / 2]);
        }
        memcpy(a, b, sizeof a);
    }
    for (int i = 0; i < LANES; i++)
        _mm_storeu_si128((__m128i *)(out + i * out_step), a[i]);
}

/* The same for the `count` first columns of up to sixteen rows, into `count` rounded up to 16. */
static void turn_rows(const u8 *in, i64 in_step, i64 rows, i64 count, u8 *out) {
    u8 rest[LANES][LANES];
    for (i64 x = 0; x < count; x += LANES) {
        const i64 most = count - x < LANES ? count - x : LANES;
        if (rows == LANES && most == LANES) {
            turn(in + x, in_step, out + x * LANES, LANES);
            continue;
        }
        memset(rest, 0, sizeof rest);
        for (i64 row = 0; row < rows; row++)
            memcpy(rest[row], in + row * in_step + x, most);
        turn(rest[0], LANES, out + x * LANES, LANES);
    }
}

static i64 round_up(i64 value) { return (value + LANES - 1) / LANES * LANES; }

/* A job and its memory. */
typedef struct {
    const u8 *in; /* [height,width,3], rows `step` bytes apart */
    i64 height, width, step;
    u8 *out; /* [3,to_height,to_width], planes and rows so many bytes apart */
    i64 to_height, to_width, out_plane, out_step;
    Side across, down;
    i64 stride; /* of a row of one channel of the output, in memory of ours */
    i64 kept;   /* rows of it, going round */
    u8 *turned; /* [width,3,16] */
    u8 *summed; /* [to_width,16] */
    u8 *lines;  /* [3,kept,to_width] */
    u8 *tall;   /* [16,width,3] */
    u8 *edge;   /* [down.taps,16] */
} Job;

/* The sums of up to sixteen rows, `step` bytes apart, along themselves: into `lines` from row `at`. */
static void sum_rows(const Job *job, const u8 *rows, i64 step, i64 count, i64 at) {
    turn_rows(rows, step, count, job->width * CHANNELS, job->turned);
    for (i64 c = 0; c < CHANNELS; c++) {
        for (i64 x = 0; x < job->to_width; x++) {
            const u8 *from = job->turned + (job->across.starts[x] * CHANNELS + c) * LANES;
            store(job->summed + x * LANES,
                  add(half(), from, CHANNELS * LANES, job->across.weights + x * job->across.taps,
                      job->across.counts[x]));
        }
        u8 *block = job->lines + (c * job->kept + at) * job->stride;
        for (i64 x = 0; x < job->to_width; x += LANES)
            turn(job->summed + x * LANES, LANES, block + x, job->stride);
    }
}

static void rows_first(const Job *job) {
    u8 line[LANES];
    i64 done = 0; /* rows of the input */
    for (i64 y = 0; y < job->to_height; y++) {
        const i64 first = job->down.starts[y], count = job->down.counts[y];
        for (; done < first + count; done += LANES) {
            const i64 left = job->height - done;
            sum_rows(job, job->in + done * job->step, job->step, left < LANES ? left : LANES,
                     done % job->kept);
        }
        const i64 at = first % job->kept;
        const i64 before = count < job->kept - at ? count : job->kept - at;
        const int32_t *weights = job->down.weights + y * job->down.taps;
        for (i64 c = 0; c < CHANNELS; c++) {
            const u8 *channel = job->lines + c * job->kept * job->stride;
            u8 *to = job->out + c * job->out_plane + y * job->out_step;
            for (i64 x = 0; x < job->to_width; x += LANES) {
                const i64 left = job->to_width - x;
                Sums sums =
                    add(half(), channel + at * job->stride + x, job->stride, weights, before);
                sums = add(sums, channel + x, job->stride, weights + before, count - before);
                store(line, sums);
                memcpy(to + x, line, left < LANES ? left : LANES);
            }
        }
    }
}

static void columns_first(const Job *job) {
    const i64 wide = job->width * CHANNELS, tall_step = round_up(wide);
    for (i64 y = 0; y < job->to_height; y += LANES) {
        const i64 rows = job->to_height - y < LANES ? job->to_height - y : LANES;
        for (i64 row = 0; row < rows; row++) {
            const i64 count = job->down.counts[y + row];
            const u8 *from = job->in + job->down.starts[y + row] * job->step;
            const int32_t *weights = job->down.weights + (y + row) * job->down.taps;
            u8 *to = job->tall + row * tall_step;
            i64 x = 0;
            for (; x + LANES <= wide; x += LANES)
                store(to + x, add(half(), from + x, job->step, weights, count));
            if (x < wide) { /* not to read behind the last row */
                for (i64 j = 0; j < count; j++)
                    memcpy(job->edge + j * LANES, from + j * job->step + x, wide - x);
                store(to + x, add(half(), job->edge, LANES, weights, count));
            }
        }
        sum_rows(job, job->tall, tall_step, rows, 0);
        for (i64 c = 0; c < CHANNELS; c++)
            for (i64 row = 0; row < rows; row++)
                memcpy(job->out + c * job->out_plane + (y + row) * job->out_step,
                       job->lines + (c * job->kept + row) * job->stride, job->to_width);
    }
}

/* Resize u8 [height,width,3], rows `step` bytes apart, to u8 [3,to_height,to_width], planes and rows
   so many bytes apart. Returns 0, or -1 where there is no memory. */
int docr_resample(const u8 *in, i64 height, i64 width, i64 step, u8 *out, i64 to_height, i64 to_width,
                  i64 out_plane, i64 out_step) {
    Job job = {.in = in, .height = height, .width = width, .step = step,
               .out = out, .to_height = to_height, .to_width = to_width,
               .out_plane = out_plane, .out_step = out_step};
    int failed = -1;
    if (!make_side(&job.across, width, to_width))
        return failed;
    if (!make_side(&job.down, height, to_height)) {
        free_side(&job.across);
        return failed;
    }
    job.stride = round_up(to_width);
    job.kept = round_up(job.down.taps) + LANES;
    job.turned = malloc(round_up(width * CHANNELS) * LANES);
    job.summed = calloc(job.stride, LANES);
    job.lines = malloc(CHANNELS * job.kept * job.stride);
    job.tall = malloc(LANES * round_up(width * CHANNELS));
    job.edge = calloc(job.down.taps, LANES);
    if (job.turned && job.summed && job.lines && job.tall && job.edge) {
        failed = 0;
        /* As Pillow since 13: where the height loses more than twice what the width does. */
        if (height > to_height && height - to_height > 2 * (width - to_width))
            columns_first(&job);
        else
            rows_first(&job);
    }
    free(job.turned);
    free(job.summed);
    free(job.lines);
    free(job.tall);
    free(job.edge);
    free_side(&job.across);
    free_side(&job.down);
    return failed;
}
