// The micro-kernels: a tile of at most TILE_ROWS rows and one panel of columns, with all its sums in registers.
//
// Each sum is over the depth in order, whatever the number of rows. So a row's sums are the same, bit for bit, whatever
// other rows are multiplied with it.
#pragma once

#include "vector.h"

enum fetch_kind {
    FETCH_NOTHING,
    FETCH_LINE,  // a cache line
    FETCH_ROW,   // a row of a panel, which is one cache line or two
};

// The weights to fetch from memory into the second level of caches while a tile is computed: one of the above for each
// word of a column, each `step` bytes behind the one before.
struct fetch {
    enum fetch_kind kind;
    const char *from;
    size_t step;
};

// sums[rows][PANEL] = a[rows][depth] x b[depth][PANEL]; strides are in elements, and b's is PANEL.
void multiply(float *sums, size_t sums_stride, const float *a, size_t a_stride, const float *b, int rows, int depth,
              struct fetch fetch);

// The same with weights in bfloat16, the upper half of a float32: a word of b[depth / 2][PANEL] has a column's weights
// for two steps of the depth, the first of them in its lower half. Where the CPU multiplies such pairs, `a` is bfloat16
// as well, rounded by `to_bfloat16`. Elsewhere the weights become float32 again, and only less memory is read.
#if defined __AVX512BF16__
enum { MULTIPLIES_BFLOAT16 = 1 };
typedef uint16_t bfloat16_operand;
#else
enum { MULTIPLIES_BFLOAT16 = 0 };
typedef float bfloat16_operand;
#endif

void multiply_bfloat16(float *sums, size_t sums_stride, const bfloat16_operand *a, size_t a_stride, const int32_t *b,
                       int rows, int depth, struct fetch fetch);

#if defined __AVX512BF16__
// Rounds `count` values, and those after them up to a multiple of LANES.
void to_bfloat16(uint16_t *to, const float *from, size_t count);
#endif

// The rows of each part, if rows are divided into as few parts of at most `most` as possible, and these are as even as
// possible. The last part may have fewer.
INLINE int even_split(int rows, int most) {
    int parts = (rows + most - 1) / most;
    return (rows + parts - 1) / parts;
}
