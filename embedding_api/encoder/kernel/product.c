#include "product.h"

#include "tile.h"

// How many bytes ahead a single tile fetches. 32 KB are as fast, 64 KB and the next panel slower.
enum { BYTES_AHEAD = 16384 };

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

_Static_assert(PANEL * 4 <= 2 * CACHE_LINE, "with two tiles, a step would be more than a cache line");

// What a tile, of so many in a panel, fetches. A single tile fetches what soon follows. Several share the fetching of the
// next panel: when the first one fetched all, it waited for memory, which idled afterwards (11 rows took 1.25 times as
// long).
static struct fetch fetch_for_tile(int tile, int tiles, const char *panel, size_t panel_bytes) {
    if (tiles == 1) return (struct fetch){FETCH_ROW, panel + BYTES_AHEAD, PANEL * 4};
    const size_t step = (PANEL * 4 + tiles - 1) / tiles, steps = panel_bytes / (PANEL * 4);
    return (struct fetch){FETCH_LINE, panel + panel_bytes + tile * steps * step, step};
}

// Some panels of a product, from `first` up to `last`.
static void compute_panels(const struct product *p, int first, int last) {
    const int in = p->linear->in, height = even_split(p->rows, TILE_ROWS), tiles = (p->rows + height - 1) / height;
    const size_t panel_bytes = (size_t)in * PANEL * (p->bfloat16 ? 2 : 4);
    const bfloat16_operand *operand = MULTIPLIES_BFLOAT16 ? (const void *)p->rounded : (const void *)p->input;
    const size_t operand_stride = MULTIPLIES_BFLOAT16 ? (size_t)in : p->input_stride;
    _Alignas(CACHE_LINE) float sums[TILE_ROWS * PANEL];
    for (int i = first; i < last; i++) {
        const char *panel = (const char *)p->linear->panels + i * panel_bytes;
        for (int row = 0; row < p->rows; row += height) {
            const int rows = p->rows - row < height ? p->rows - row : height;
            const struct fetch fetch = fetch_for_tile(row / height, tiles, panel, panel_bytes);
            if (p->bfloat16)
                multiply_bfloat16(sums, PANEL, operand + row * operand_stride, operand_stride, (const void *)panel,
                                  rows, in, fetch);
            else
                multiply(sums, PANEL, p->input + row * p->input_stride, p->input_stride, (const void *)panel, rows, in,
                         fetch);
            const size_t offset = row * p->output_stride + i * PANEL;
            finish(p->activation, sums, p->linear->bias + i * PANEL, p->residual ? p->residual + offset : NULL,
                   p->output + offset, p->output_stride, rows);
        }
    }
}

static int panels_of(const struct product *product) { return whole_panels(product->linear->out) / PANEL; }

// Where the second half begins. An odd panel is in the first, as the helper begins later.
static int middle_of(const struct product *product) { return (panels_of(product) + 1) / 2; }

static void compute_second_half(const struct product *product) {
    compute_panels(product, middle_of(product), panels_of(product));
}

// Whether the calling thread is the first to take the second half of the product of this number.
static int take(struct helper *helper, uint32_t number) {
    uint32_t before = number - 1;
    return __atomic_compare_exchange_n(&helper->taken, &before, number, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

// A short spin; then the core is given away, as the other thread may wait for this very one.
enum { SPINS = 1000 };

static void wait_briefly(const struct helper *helper, int *spins) {
    if (++*spins > SPINS) helper->yield();
#if defined __x86_64__
    __builtin_ia32_pause();
#else
    __asm__ volatile("yield");
#endif
}

void compute_product(const struct product *product, struct helper *helper) {
#if defined __AVX512BF16__
    if (product->bfloat16)
        for (int row = 0; row < product->rows; row++)
            to_bfloat16(product->rounded + (size_t)row * product->linear->in,
                        product->input + row * product->input_stride, product->linear->in);
#endif
    if (!helper) {
        compute_panels(product, 0, panels_of(product));
        return;
    }
    const uint32_t number = helper->offered + 1;
    helper->product = product;
    __atomic_store_n(&helper->offered, number, __ATOMIC_RELEASE);
    compute_panels(product, 0, middle_of(product));
    int spins = 0;
    if (take(helper, number))
        compute_second_half(product);
    else
        while (__atomic_load_n(&helper->finished, __ATOMIC_ACQUIRE) != number) wait_briefly(helper, &spins);
}

void help_with_products(struct helper *helper) {
    int spins = 0;
    while (__atomic_load_n(&helper->active, __ATOMIC_RELAXED)) {
        const uint32_t number = __atomic_load_n(&helper->offered, __ATOMIC_ACQUIRE);
        if (__atomic_load_n(&helper->taken, __ATOMIC_RELAXED) != number && take(helper, number)) {
            compute_second_half(helper->product);
            __atomic_store_n(&helper->finished, number, __ATOMIC_RELEASE);
            spins = 0;
        } else {
            wait_briefly(helper, &spins);
        }
    }
}
