// Self-attention within one text.
#pragma once

#include "vector.h"

// One head of one text, and where to put its context.
struct head {
    const float *query, *key, *value;  // [length][size], rows of `stride` floats
    size_t stride;
    const float *bias;  // bias[k - q] is added to the score of query q and key k; or NULL
    float *context;     // [queries][size], rows of `context_stride` floats
    size_t context_stride;
    int length;   // tokens of the text
    int queries;  // how many of them attend, from the first one on
    int size;     // a multiple of PANEL
};

// Floats of scratch memory for texts of at most `length` tokens: a block of keys and values in panels, a tile's scores,
// and two numbers for each query.
size_t attention_scratch(int size, int length);

// context = softmax(query x key^T / sqrt(size) + bias) x value. The bias is read from 1 - queries up to the length,
// rounded up to whole panels.
void attention(const struct head *head, float *scratch);
