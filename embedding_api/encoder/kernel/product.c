#include "product.h"

#include "tile.h"

// How many bytes ahead a stream is fetched. Of 1, 4, 8, 16 and 32 KB, 16 was the fastest.
enum { STREAM_AHEAD = 16384 };

INLINE vec activate(const enum activation activation, vec x) {
    switch (activation) {
        case ACTIVATION_GELU: return gelu(x);
        case ACTIVATION_GELU_TANH: return gelu_tanh(x);
        case ACTIVATION_RELU: return relu(x);
        case ACTIVATION_TANH: return tanh_lanes(x);
        default: return x;
    }
}

INLINE void finish_rows(const enum activation activation, const float *sums, const float *bias, const float *residual,
                        float *output, size_t stride, int rows) {
    for (int row = 0; row < rows; row++)
        for (int column = 0; column < PANEL; column += LANES) {
            vec value = activate(activation, load(sums + row * PANEL + column) + load(bias + column));
            if (residual) value += load(residual + row * stride + column);
            store(output + row * stride + column, value);
        }
}

// Bias, activation and residual, while the sums of a tile are still in the L1 cache. For each activation it is the
// function above, inlined with a constant.
static void finish(enum activation activation, const float *sums, const float *bias, const float *residual,
                   float *output, size_t stride, int rows) {
#define FINISH(activation) finish_rows(activation, sums, bias, residual, output, stride, rows)
    switch (activation) {
        case ACTIVATION_NONE: FINISH(ACTIVATION_NONE); break;
        case ACTIVATION_GELU: FINISH(ACTIVATION_GELU); break;
        case ACTIVATION_GELU_TANH: FINISH(ACTIVATION_GELU_TANH); break;
        case ACTIVATION_RELU: FINISH(ACTIVATION_RELU); break;
        case ACTIVATION_TANH: FINISH(ACTIVATION_TANH); break;
    }
}

// What a tile, of so many in a panel, fetches. A single tile fetches what follows as a stream. Of several, each fetches
// its part of the next panel: if the first one fetched all of it, it would wait for the memory, which would then idle
// (11 rows took 1.25 times as long).
static struct fetch fetch_beside(int tile, int tiles, const char *panel, size_t panel_bytes) {
    if (tiles == 1) return (struct fetch){FETCH_STREAM, panel + STREAM_AHEAD, PANEL * 4};
    const size_t step = (PANEL * 4 + tiles - 1) / tiles, steps = panel_bytes / (PANEL * 4);
    return (struct fetch){FETCH_NEXT_PANEL, panel + panel_bytes + tile * steps * step, step};
}

void product(const struct linear *linear, int bfloat16, enum activation activation, const float *input,
             size_t input_stride, float *output, size_t output_stride, const float *residual, int rows,
             uint16_t *rounded) {
    const int height = even_split(rows, TILE_ROWS), tiles = (rows + height - 1) / height;
    const size_t panel_bytes = (size_t)linear->in * PANEL * (bfloat16 ? 2 : 4);
    const bfloat16_operand *operand = (const void *)input;
    size_t operand_stride = input_stride;
#if defined __AVX512BF16__
    if (bfloat16) {
        operand = rounded;
        operand_stride = linear->in;
        for (int row = 0; row < rows; row++)
            to_bfloat16(rounded + row * operand_stride, input + row * input_stride, linear->in);
    }
#else
    (void)rounded;
#endif
    _Alignas(CACHE_LINE) float sums[TILE_ROWS * PANEL];
    const char *panel = linear->panels;
    for (int column = 0; column < linear->out; column += PANEL, panel += panel_bytes)
        for (int row = 0; row < rows; row += height) {
            const int tile_rows = rows - row < height ? rows - row : height;
            const struct fetch fetch = fetch_beside(row / height, tiles, panel, panel_bytes);
            if (bfloat16)
                multiply_bfloat16(sums, PANEL, operand + row * operand_stride, operand_stride, (const void *)panel,
                                  tile_rows, linear->in, fetch);
            else
                multiply(sums, PANEL, input + row * input_stride, input_stride, (const void *)panel, tile_rows,
                         linear->in, fetch);
            const size_t offset = row * output_stride + column;
            finish(activation, sums, linear->bias + column, residual ? residual + offset : NULL, output + offset,
                   output_stride, tile_rows);
        }
}
