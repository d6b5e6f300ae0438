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

// output[rows][out] = activation(input[rows][in] x weights + bias) + residual. Strides are in floats; the output's is at
// least `out` rounded up to whole panels. `residual` has the output's stride and may be the output, or NULL for none.
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

// Another thread that computes half of each product, and what the two know of each other. The products are numbered.
// Whoever sets `taken` to a product's number first computes its second half, so that a thread that is late, or that the
// operating system has suspended, is not waited for.
struct helper {
    const struct product *product;
    uint32_t offered;   // the number of the product
    uint32_t taken;     // the number of the last product whose second half somebody computes
    uint32_t finished;  // the number of the last product that the helper has finished
    uint32_t active;    // whether there will be more products
};

// Without a helper, if it is NULL.
void compute_product(const struct product *product, struct helper *helper);

// Takes part in products while the helper is active.
void help(struct helper *helper);
