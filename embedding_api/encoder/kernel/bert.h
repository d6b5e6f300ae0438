// BERT (https://arxiv.org/abs/1810.04805) and its pooling, for texts one after the other without padding. RoBERTa,
// XLM-RoBERTa and DistilBERT are the same with other numbers, and so is MPNet (https://arxiv.org/abs/2004.09297) with a
// bias of its own for the attention.
//
// The caller has checked every number: token ids are below the vocabulary's size, lengths are from 1 to the number of
// positions behind the padding's and `max_length`, `hidden` is `heads` times a head size that is a multiple of PANEL,
// and scratch memory is large enough.
#pragma once

#include "product.h"

struct layer_norm {
    const float *weight, *bias;  // [hidden]
};

struct layer {
    struct linear query_key_value, attention_output, intermediate, output;
    struct layer_norm attention_norm, output_norm;
};

// What makes one row of a text's rows.
enum pooling {
    POOLING_FIRST,      // the row of the first token, [CLS]
    POOLING_MEAN,       // their mean
    POOLING_MEAN_SQRT,  // their sum, divided by the square root of their number
    POOLING_MAX,        // of each column the largest value
};

struct bert {
    int32_t hidden, heads, layers;
    int32_t padding;   // the id of the padding token, and its position, behind which those of a text begin; or -1
    int32_t max_length;  // tokens of the longest text
    int32_t bfloat16;  // whether the weights of the products are bfloat16
    enum activation activation;  // of each layer's intermediate product
    enum pooling pooling;
    enum activation dense_activation;
    float epsilon;           // of the norms
    const float *words;      // [vocabulary][hidden]
    const float *positions;  // [positions][hidden], with the embedding of the only token type added, if there is one
    // [heads][2 * max_length - 1 + PANEL], added to the scores of each layer's attention, by how far the key is behind
    // the query, from 1 - max_length on; the last PANEL are read, and of no effect. NULL where nothing is added.
    const float *attention_bias;
    struct layer_norm embedding_norm;
    const struct layer *layer;  // [layers]
    struct linear dense;        // from the pooled row to the vector; `out` is 0 where the pooled row is the vector
};

// Columns of a panel, in which the caller lays out the weights.
int32_t bert_panel(void);

// Floats of scratch memory for a forward pass of so many tokens, of which the longest text has `longest`.
size_t bert_scratch(const struct bert *bert, int32_t tokens, int32_t longest);

// vectors[texts][columns, rounded up to whole panels], not normalized, of texts whose token ids stand one after the
// other. A vector is the same, bit for bit, whatever other texts are in the call. Several threads may call it at once,
// each with scratch memory and a helper of its own. Without a helper, if it is NULL.
void bert_forward(const struct bert *bert, const int32_t *ids, const int32_t *lengths, int32_t texts, float *scratch,
                  float *vectors, struct helper *helper);
