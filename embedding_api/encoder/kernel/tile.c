#include "tile.h"

#if defined __AVX512BF16__
#include <immintrin.h>
#endif

// Fetches a step, and goes on to the next one. Into the first level of caches, or with the non-temporal hint, fewer
// fetches are under way at once: on a Zen 4, 11 rows took 1.25 times as long.
INLINE void prefetch(const enum fetch_kind kind, struct fetch *fetch) {
    if (kind == FETCH_NOTHING) return;
    const int bytes = kind == FETCH_ROW ? PANEL * 4 : CACHE_LINE;
    for (int line = 0; line < bytes; line += CACHE_LINE) __builtin_prefetch(fetch->from + line, 0, 2);
    fetch->from += fetch->step;
}

typedef vec tile[TILE_ROWS][PANEL_VECTORS];

// The loops over rows and vectors have constant bounds of at most 12 and are unrolled, so that `sums` is registers.
#define UNROLL _Pragma("GCC unroll 12")

INLINE void store_tile(float *to, size_t stride, tile sums, const int rows) {
    UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < PANEL_VECTORS; j++)
        store(to + i * stride + j * LANES, sums[i][j]);
}

// One step of the depth: an activation for each row, times a row of the panel.
INLINE void add_products(tile sums, const float *a, size_t a_stride, const vec weights[PANEL_VECTORS], const int rows) {
    UNROLL for (int i = 0; i < rows; i++) {
        const float activation = a[i * a_stride];
        UNROLL for (int j = 0; j < PANEL_VECTORS; j++) sums[i][j] += activation * weights[j];
    }
}

INLINE void multiply_rows(float *to, size_t to_stride, const float *a, size_t a_stride, const float *b, int depth,
                          const int rows, const enum fetch_kind kind, struct fetch fetch) {
    tile sums = {0};
    for (int k = 0; k < depth; k++, b += PANEL) {
        vec weights[PANEL_VECTORS];
        UNROLL for (int j = 0; j < PANEL_VECTORS; j++) weights[j] = load(b + j * LANES);
        prefetch(kind, &fetch);
        add_products(sums, a + k, a_stride, weights, rows);
    }
    store_tile(to, to_stride, sums, rows);
}

INLINE void multiply_rows_bfloat16(float *to, size_t to_stride, const bfloat16_operand *a, size_t a_stride,
                                   const int32_t *b, int depth, const int rows, const enum fetch_kind kind,
                                   struct fetch fetch) {
    tile sums = {0};
#if defined __AVX512BF16__
    for (int k = 0; k < depth; k += 2, b += PANEL) {
        prefetch(kind, &fetch);
        __m512bh pairs[PANEL_VECTORS];
        UNROLL for (int j = 0; j < PANEL_VECTORS; j++) pairs[j] = (__m512bh)load_words(b + j * LANES);
        UNROLL for (int i = 0; i < rows; i++) {
            const __m512bh activations = (__m512bh)_mm512_set1_epi32(*(const word_in_memory *)(a + i * a_stride + k));
            UNROLL for (int j = 0; j < PANEL_VECTORS; j++)
                sums[i][j] = (vec)_mm512_dpbf16_ps((__m512)sums[i][j], activations, pairs[j]);
        }
    }
#else
    for (int k = 0; k < depth; k++) {
        // The first of two weights is the lower half of the word and is shifted up; the second is the upper half.
        const int is_second = k & 1, shift = is_second ? 0 : 16;
        if (!is_second) prefetch(kind, &fetch);
        vec weights[PANEL_VECTORS];
        UNROLL for (int j = 0; j < PANEL_VECTORS; j++)
            weights[j] = (vec)(load_words(b + j * LANES) << shift & ~0xffff);
        add_products(sums, a + k, a_stride, weights, rows);
        b += is_second * PANEL;
    }
#endif
    store_tile(to, to_stride, sums, rows);
}

// A micro-kernel for each number of rows: each case is the function above, inlined with constants.
#if defined __AVX512F__
#define CASES_7_TO_12(call)   \
    case 7: call(7); break;   \
    case 8: call(8); break;   \
    case 9: call(9); break;   \
    case 10: call(10); break; \
    case 11: call(11); break; \
    case 12: call(12); break;
#else
#define CASES_7_TO_12(call)
#endif
#define DISPATCH_ROWS(rows, call)   \
    switch (rows) {                 \
        case 1: call(1); break;     \
        case 2: call(2); break;     \
        case 3: call(3); break;     \
        case 4: call(4); break;     \
        case 5: call(5); break;     \
        case 6: call(6); break;     \
        CASES_7_TO_12(call)         \
    }

void multiply(float *sums, size_t sums_stride, const float *a, size_t a_stride, const float *b, int rows, int depth,
              struct fetch fetch) {
#define MULTIPLY(rows, kind) multiply_rows(sums, sums_stride, a, a_stride, b, depth, rows, kind, fetch)
#define WITHOUT_FETCH(rows) MULTIPLY(rows, FETCH_NOTHING)
#define WITH_LINE(rows) MULTIPLY(rows, FETCH_LINE)
#define WITH_ROW(rows) MULTIPLY(rows, FETCH_ROW)
    if (fetch.kind == FETCH_NOTHING) DISPATCH_ROWS(rows, WITHOUT_FETCH)
    else if (fetch.kind == FETCH_LINE) DISPATCH_ROWS(rows, WITH_LINE)
    else DISPATCH_ROWS(rows, WITH_ROW)
}

// From here on WITHOUT_FETCH and the others call another MULTIPLY.
#undef MULTIPLY
void multiply_bfloat16(float *sums, size_t sums_stride, const bfloat16_operand *a, size_t a_stride, const int32_t *b,
                       int rows, int depth, struct fetch fetch) {
#define MULTIPLY(rows, kind) multiply_rows_bfloat16(sums, sums_stride, a, a_stride, b, depth, rows, kind, fetch)
    if (fetch.kind == FETCH_NOTHING) DISPATCH_ROWS(rows, WITHOUT_FETCH)
    else if (fetch.kind == FETCH_LINE) DISPATCH_ROWS(rows, WITH_LINE)
    else DISPATCH_ROWS(rows, WITH_ROW)
}

#if defined __AVX512BF16__
void to_bfloat16(uint16_t *to, const float *from, size_t count) {
    for (size_t i = 0; i < count; i += LANES)
        _mm256_storeu_si256((__m256i *)(to + i), (__m256i)_mm512_cvtneps_pbh((__m512)load(from + i)));
}
#endif
