// Products with weights, and what is done to each sum at once: bias, activation, residual.
#pragma once

#include "vector.h"

// The weights of a product from `in` to `out` columns. The columns are in panels of PANEL, the last one padded with
// zeros. A panel is contiguous in memory: its weights for the first input, those for the second, and so on. In bfloat16
// the weights for two inputs are stored in pairs (see tile.h), so `in` is even. The bias is padded as well.
struct linear {
    int32_t in, out;
    const void *panels;
    const float *bias;
};

// What a sum becomes after the bias is added; see vector.h.
enum activation { ACTIVATION_NONE, ACTIVATION_GELU, ACTIVATION_GELU_TANH, ACTIVATION_RELU, ACTIVATION_TANH };

// output[rows][out] = activation(input[rows][in] x weights + bias) + residual. Strides are in floats; the output's is
// at least `out` rounded up to whole panels. `residual` has the output's stride and may be the output, or NULL for none.
// `rounded` is scratch memory for rows x in values, used where the CPU multiplies in bfloat16 only.
struct product {
    const struct linear *linear;
    int bfloat16;
    enum activation activation;
    int rows;
    const float *input;
    size_t input_stride;
    float *output;
    size_t output_stride;
    const float *residual;
    uint16_t *rounded;
};

// What a forward pass shares with its helper, a thread that may compute the second half of each product. Products are
// numbered. The thread that moves `taken` from number - 1 to number computes the second half: so a helper that has not
// begun is not waited for; one that has begun is. Between two products `taken` equals `offered`.
struct helper {
    const struct product *product;  // the newest; only the thread that has taken it reads it
    uint32_t offered;               // its number; only the pass writes it
    uint32_t taken;
    uint32_t finished;              // the last product whose second half the helper has computed
    uint32_t active;                // whether a pass is under way; if not, the helper returns
    int (*yield)(void);             // gives the core to another thread, as sched_yield does
};

// Without a helper, if it is NULL.
void compute_product(const struct product *product, struct helper *helper);

// Takes part in products while the helper is active.
void help_with_products(struct helper *helper);
