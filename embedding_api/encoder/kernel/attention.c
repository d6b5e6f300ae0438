#include "attention.h"

#include "tile.h"

size_t attention_scratch(int head_size, int length) {
    return (size_t)whole_panels(length) * (2 * head_size + TILE_ROWS);
}

// panels[length / PANEL][head_size][PANEL] = key^T * scale. Keys beyond the text are zeros.
static void transpose_keys(float *panels, const float *key, size_t stride, int length, int head_size, float scale) {
    for (int first = 0; first < length; first += PANEL, panels += head_size * PANEL)
        for (int column = 0; column < PANEL; column++)
            for (int i = 0; i < head_size; i++)
                panels[i * PANEL + column] =
                    first + column < length ? key[(first + column) * stride + i] * scale : 0.0f;
}

// panels[head_size / PANEL][length][PANEL] = value. They are copied because rows that hold all heads are too far apart
// to stay in the caches together.
static void gather_values(float *panels, const float *value, size_t stride, int length, int head_size) {
    for (int column = 0; column < head_size; column += PANEL)
        for (int row = 0; row < length; row++, panels += PANEL)
            for (int i = 0; i < PANEL; i += LANES) store(panels + i, load(value + row * stride + column + i));
}

static void add_bias(float *scores, const float *bias, int length) {
    for (int i = 0; i < length; i += LANES) store(scores + i, load(scores + i) + load(bias + i));
}

// The numerators of the softmax of a row of scores, e^(score - largest score), in place of the scores. Returns their
// sum, the denominator.
static float softmax_numerators(float *scores, int length) {
    const int padded = whole_panels(length);
    // The padding of the last panel becomes 1e-38, too little to change a sum of at least 1.
    for (int i = length; i < padded; i++) scores[i] = -__builtin_inff();
    vec maxima = load(scores);
    for (int i = LANES; i < padded; i += LANES) maxima = max_lanes(maxima, load(scores + i));
    const float maximum = max_of_lanes(maxima);
    vec total = {0};
    for (int i = 0; i < padded; i += LANES) {
        const vec weight = exp_of_negative(load(scores + i) - maximum);
        store(scores + i, weight);
        total += weight;
    }
    return sum_of_lanes(total);
}

void attention(const float *query, const float *key, const float *value, size_t stride, const float *bias,
               float *context, size_t context_stride, int length, int queries, int head_size, float *scratch) {
    const int padded = whole_panels(length), height = even_split(queries, TILE_ROWS);
    float *keys = scratch, *values = keys + (size_t)padded * head_size, *scores = values + (size_t)padded * head_size;
    transpose_keys(keys, key, stride, length, head_size, 1.0f / __builtin_sqrtf(head_size));
    gather_values(values, value, stride, length, head_size);
    for (int row = 0; row < queries; row += height) {
        const int rows = queries - row < height ? queries - row : height;
        for (int first = 0; first < padded; first += PANEL)
            multiply(scores + first, padded, query + row * stride, stride, keys + (size_t)first * head_size, rows,
                     head_size, FETCH_NOTHING);
        float denominators[TILE_ROWS];
        for (int i = 0; i < rows; i++) {
            if (bias) add_bias(scores + (size_t)i * padded, bias - (row + i), length);
            denominators[i] = softmax_numerators(scores + (size_t)i * padded, length);
        }
        for (int column = 0; column < head_size; column += PANEL) {
            float *to = context + row * context_stride + column;
            multiply(to, context_stride, scores, padded, values + (size_t)column * length, rows, length, FETCH_NOTHING);
            for (int i = 0; i < rows; i++)
                for (int j = 0; j < PANEL; j += LANES) {
                    float *at = to + i * context_stride + j;
                    store(at, load(at) / denominators[i]);
                }
        }
    }
}
