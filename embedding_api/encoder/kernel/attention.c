#include "attention.h"

#include "tile.h"

// Keys that are scored together. Scratch memory for keys, values and scores does not grow beyond them, and keys and
// values (256 KB for a head of 64) stay in the L2 cache. Models of up to so many tokens need no second block.
enum { BLOCK_KEYS = 512 };

// What is known of the softmax of a query's scores after some blocks of keys: the largest score, and the sum of all
// e^(score - largest score).
struct softmax {
    float maximum, denominator;
};

static int block_keys(int length) { return length < BLOCK_KEYS ? length : BLOCK_KEYS; }

size_t attention_scratch(int size, int length) {
    const size_t block = whole_panels(block_keys(length));
    return block * (2 * size + TILE_ROWS) + length * (sizeof(struct softmax) / sizeof(float));
}

// panels[length / PANEL][size][PANEL] = key^T * scale. Keys beyond the length are zeros.
static void transpose_keys(float *panels, const float *key, size_t stride, int length, int size, float scale) {
    for (int first = 0; first < length; first += PANEL, panels += size * PANEL)
        for (int column = 0; column < PANEL; column++)
            for (int i = 0; i < size; i++)
                panels[i * PANEL + column] =
                    first + column < length ? key[(first + column) * stride + i] * scale : 0.0f;
}

// panels[size / PANEL][length][PANEL] = value. They are copied because rows that hold all heads are too far apart
// to stay in the caches together.
static void gather_values(float *panels, const float *value, size_t stride, int length, int size) {
    for (int column = 0; column < size; column += PANEL)
        for (int row = 0; row < length; row++, panels += PANEL)
            for (int i = 0; i < PANEL; i += LANES) store(panels + i, load(value + row * stride + column + i));
}

static void add_bias(float *scores, const float *bias, int length) {
    for (int i = 0; i < length; i += LANES) store(scores + i, load(scores + i) + load(bias + i));
}

// Take a block of a query's scores into its softmax. They become the numerators e^(score - largest score so far).
// Returns the factor that earlier numerators are to be multiplied with, as the largest score may have grown.
static float continue_softmax(struct softmax *softmax, float *scores, int length) {
    const int padded = whole_panels(length);
    // The padding of the last panel becomes 1e-38, too little to change a sum of at least 1.
    for (int i = length; i < padded; i++) scores[i] = -__builtin_inff();
    vec maxima = splat(softmax->maximum);
    for (int i = 0; i < padded; i += LANES) maxima = max_lanes(maxima, load(scores + i));
    const float maximum = max_of_lanes(maxima);
    vec total = {0};
    for (int i = 0; i < padded; i += LANES) {
        const vec weight = exp_of_negative(load(scores + i) - maximum);
        store(scores + i, weight);
        total += weight;
    }
    const int is_first = softmax->denominator == 0.0f;
    const float factor = is_first ? 0.0f : exp_of_negative(splat(softmax->maximum - maximum))[0];
    softmax->maximum = maximum;
    softmax->denominator = softmax->denominator * factor + sum_of_lanes(total);
    return factor;
}

// Some queries, from `row` on, and a block of keys, from `first` on: adds to the queries' softmax and context. `scores`
// is scratch memory for rows x length scores, each row in whole panels.
static void attend_block(const struct head *head, int row, int rows, int first, int length, const float *keys,
                         const float *values, float *scores, struct softmax *softmax) {
    const int padded = whole_panels(length), is_last = first + length == head->length;
    const float *query = head->query + row * head->stride;
    for (int key = 0; key < padded; key += PANEL)
        multiply(scores + key, padded, query, head->stride, keys + (size_t)key * head->size, rows, head->size,
                 (struct fetch){.kind = FETCH_NOTHING});
    float factors[TILE_ROWS];
    for (int i = 0; i < rows; i++) {
        if (head->bias) add_bias(scores + (size_t)i * padded, head->bias + first - (row + i), length);
        factors[i] = continue_softmax(softmax + row + i, scores + (size_t)i * padded, length);
    }
    _Alignas(CACHE_LINE) float sums[TILE_ROWS * PANEL];
    for (int column = 0; column < head->size; column += PANEL) {
        multiply(sums, PANEL, scores, padded, values + (size_t)column * length, rows, length,
                 (struct fetch){.kind = FETCH_NOTHING});
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < PANEL; j += LANES) {
                float *at = head->context + (row + i) * head->context_stride + column + j;
                vec sum = load(sums + i * PANEL + j);
                if (first > 0) sum += load(at) * factors[i];
                store(at, is_last ? sum / softmax[row + i].denominator : sum);
            }
    }
}

// The softmax is computed block by block, as in https://arxiv.org/abs/1805.02867.
void attention(const struct head *head, float *scratch) {
    const size_t block = whole_panels(block_keys(head->length));
    const int height = even_split(head->queries, TILE_ROWS);
    float *keys = scratch, *values = keys + block * head->size, *scores = values + block * head->size;
    struct softmax *softmax = (void *)(scores + block * TILE_ROWS);
    for (int i = 0; i < head->queries; i++) softmax[i] = (struct softmax){-__builtin_inff(), 0.0f};
    for (int first = 0; first < head->length; first += BLOCK_KEYS) {
        const int length = block_keys(head->length - first);
        const size_t start = first * head->stride;
        transpose_keys(keys, head->key + start, head->stride, length, head->size, 1.0f / __builtin_sqrtf(head->size));
        gather_values(values, head->value + start, head->stride, length, head->size);
        for (int row = 0; row < head->queries; row += height) {
            const int rows = head->queries - row < height ? head->queries - row : height;
            attend_block(head, row, rows, first, length, keys, values, scores, softmax);
        }
    }
}
