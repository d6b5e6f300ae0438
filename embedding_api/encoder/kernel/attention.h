// Self-attention within one text.
#pragma once

#include "vector.h"

// Floats of scratch memory for texts of at most `length` tokens: a head's keys and values in panels, a tile's scores.
size_t attention_scratch(int head_size, int length);

// One head of one text: context[queries][head_size] = softmax(query x key^T / sqrt(head_size) + bias) x value for the
// text's first `queries` tokens. Query, key and value are rows of `stride` floats, those of the context of
// `context_stride`. head_size is a multiple of PANEL. bias[k - q] is added to the score of query q and key k; it is read
// from 1 - queries up to the length, rounded up to whole panels. NULL is for none.
void attention(const float *query, const float *key, const float *value, size_t stride, const float *bias,
               float *context, size_t context_stride, int length, int queries, int head_size, float *scratch);
