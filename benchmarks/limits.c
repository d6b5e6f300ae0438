// The speed limits of a forward pass on one core: the micro-kernels on operands in the L1 cache, and reading memory.

#include "tile.h"

enum { DEPTH = 384 };

static _Alignas(CACHE_LINE) float sums[TILE_ROWS * PANEL], a[TILE_ROWS * DEPTH], b[DEPTH * PANEL];
static _Alignas(CACHE_LINE) bfloat16_operand pairs[TILE_ROWS * DEPTH];

static const struct fetch nothing = {.kind = FETCH_NOTHING};

// Floating-point operations of a tile.
int tile_flop(void) { return 2 * TILE_ROWS * PANEL * DEPTH; }

void multiply_tiles(int times) {
    for (int i = 0; i < times; i++) multiply(sums, PANEL, a, DEPTH, b, TILE_ROWS, DEPTH, nothing);
}

void multiply_tiles_bfloat16(int times) {
    for (int i = 0; i < times; i++)
        multiply_bfloat16(sums, PANEL, pairs, DEPTH, (const int32_t *)b, TILE_ROWS, DEPTH, nothing);
}

// The sum of all values. It is computed in several sums at once, as additions one after the other would be the limit.
float read(const float *values, size_t count) {
    vec totals[8] = {0};
    for (size_t i = 0; i < count; i += 8 * LANES)
        for (int j = 0; j < 8; j++) {
            __builtin_prefetch(values + i + j * LANES + 4096, 0, 0);
            totals[j] += load(values + i + j * LANES);
        }
    for (int j = 1; j < 8; j++) totals[0] += totals[j];
    return sum_of_lanes(totals[0]);
}
