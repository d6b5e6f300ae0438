#include "bert.h"

#include "attention.h"
#include "tile.h"

// Rows that go through the products after attention together. Their activations (0.7 MB for BGE small) stay in the L2
// cache, and each read of the weights serves many rows.
enum { CHUNK_ROWS = 96 };

int32_t bert_panel(void) { return PANEL; }

// The scratch memory of a forward pass, and its helper. Rows are tokens, one text after the other.
struct activations {
    float *rows;             // [tokens][hidden]: the input and the output of each layer
    float *query_key_value;  // [tokens][3 * hidden]: all heads' queries, then their keys, then their values
    float *context;          // [tokens][hidden]
    float *sums;             // [CHUNK_ROWS][hidden]: before a norm
    float *intermediate;     // [CHUNK_ROWS][intermediate]
    float *attention_scratch;  // of one head, see attention.h
    uint16_t *rounded;       // [CHUNK_ROWS][hidden or intermediate], where the CPU multiplies in bfloat16
    struct helper *helper;
};

static size_t intermediate_stride(const struct bert *bert) { return whole_panels(bert->layer->intermediate.out); }

static int min_int(int a, int b) { return a < b ? a : b; }

// Floats that hold a row of any product's input in bfloat16, two values in each. They are whole vectors: what
// to_bfloat16 writes beyond the last column of a row, the next row overwrites.
static size_t rounded_stride(const struct bert *bert) {
    const size_t hidden = bert->hidden, intermediate = intermediate_stride(bert);
    return MULTIPLIES_BFLOAT16 && bert->bfloat16 ? (hidden > intermediate ? hidden : intermediate) / 2 : 0;
}

size_t bert_scratch(const struct bert *bert, int32_t tokens, int32_t longest) {
    const size_t hidden = bert->hidden, chunk = min_int(tokens, CHUNK_ROWS);
    return tokens * 5 * hidden + chunk * (hidden + intermediate_stride(bert) + rounded_stride(bert)) +
           attention_scratch(bert->hidden / bert->heads, longest);
}

static struct activations divide_scratch(const struct bert *bert, float *scratch, int tokens) {
    const size_t hidden = bert->hidden, chunk = min_int(tokens, CHUNK_ROWS);
    struct activations a;
    a.rows = scratch;
    a.query_key_value = a.rows + tokens * hidden;
    a.context = a.query_key_value + tokens * 3 * hidden;
    a.sums = a.context + tokens * hidden;
    a.intermediate = a.sums + chunk * hidden;
    float *rounded = a.intermediate + chunk * intermediate_stride(bert);
    a.rounded = (void *)rounded;
    a.attention_scratch = rounded + chunk * rounded_stride(bert);
    return a;
}

// Apply a linear layer: a product with the model's type of number and the pass's helper.
static void apply_linear(const struct bert *bert, const struct activations *a, struct product product) {
    product.bfloat16 = bert->bfloat16;
    product.rounded = a->rounded;
    compute_product(&product, a->helper);
}

// LayerNorm (https://arxiv.org/abs/1607.06450). output[rows][width]: each row with mean 0 and variance 1, times weight,
// plus bias.
static void layer_norm(const struct layer_norm *norm, float epsilon, const float *input, float *output, int rows,
                       int width) {
    for (int row = 0; row < rows; row++, input += width, output += width) {
        vec total = {0}, squares = {0};
        for (int i = 0; i < width; i += LANES) total += load(input + i);
        const float mean = sum_of_lanes(total) / width;
        for (int i = 0; i < width; i += LANES) {
            const vec difference = load(input + i) - mean;
            squares += difference * difference;
        }
        const float scale = 1.0f / __builtin_sqrtf(sum_of_lanes(squares) / width + epsilon);
        for (int i = 0; i < width; i += LANES)
            store(output + i, (load(input + i) - mean) * scale * load(norm->weight + i) + load(norm->bias + i));
    }
}

static void embed(const struct bert *bert, const int32_t *ids, const int32_t *lengths, int texts, float *rows) {
    const int hidden = bert->hidden;
    for (int text = 0; text < texts; text++) {
        int position = bert->padding;
        for (int token = 0; token < lengths[text]; token++, ids++, rows += hidden) {
            // Padding tokens inside a text, where a user wrote them, keep their own position and are not counted.
            const int is_padding = *ids == bert->padding;
            position += !is_padding;
            const float *word_row = bert->words + (size_t)*ids * hidden;
            const float *position_row = bert->positions + (size_t)(is_padding ? bert->padding : position) * hidden;
            for (int i = 0; i < hidden; i += LANES) store(rows + i, load(word_row + i) + load(position_row + i));
            layer_norm(&bert->embedding_norm, bert->epsilon, rows, rows, 1, hidden);
        }
    }
}

// context[tokens][hidden], or with `first_only` context[texts][hidden] of the first token of each text.
static void attend(const struct bert *bert, const int32_t *lengths, int texts, int first_only,
                   const struct activations *a) {
    const int hidden = bert->hidden, head_size = hidden / bert->heads;
    const size_t bias_stride = 2 * (size_t)bert->max_length - 1 + PANEL;
    const float *query = a->query_key_value;
    float *context = a->context;
    for (int text = 0; text < texts; text++) {
        const int queries = first_only ? 1 : lengths[text];
        for (int i = 0; i < bert->heads; i++) {
            const float *bias = bert->attention_bias;
            if (bias) bias += i * bias_stride + bert->max_length - 1;
            const struct head head = {.query = query + i * head_size,
                                      .key = query + hidden + i * head_size,
                                      .value = query + 2 * hidden + i * head_size,
                                      .stride = 3 * hidden,
                                      .bias = bias,
                                      .context = context + i * head_size,
                                      .context_stride = hidden,
                                      .length = lengths[text],
                                      .queries = queries,
                                      .size = head_size};
            attention(&head, a->attention_scratch);
        }
        query += (size_t)lengths[text] * 3 * hidden;
        context += (size_t)queries * hidden;
    }
}

// From the context to the layer's output, which replaces its input in `rows`: the attention's output and the
// feed-forward network, each with a residual and a norm.
static void after_attention(const struct bert *bert, const struct layer *layer, float *rows, const float *context,
                            int count, const struct activations *a) {
    const int hidden = bert->hidden;
    const size_t stride = intermediate_stride(bert);
    apply_linear(bert, a, (struct product){.linear = &layer->attention_output,
                                          .rows = count,
                                          .input = context,
                                          .input_stride = hidden,
                                          .output = a->sums,
                                          .output_stride = hidden,
                                          .residual = rows});
    layer_norm(&layer->attention_norm, bert->epsilon, a->sums, rows, count, hidden);
    apply_linear(bert, a, (struct product){.linear = &layer->intermediate,
                                          .activation = bert->activation,
                                          .rows = count,
                                          .input = rows,
                                          .input_stride = hidden,
                                          .output = a->intermediate,
                                          .output_stride = stride});
    apply_linear(bert, a, (struct product){.linear = &layer->output,
                                          .rows = count,
                                          .input = a->intermediate,
                                          .input_stride = stride,
                                          .output = a->sums,
                                          .output_stride = hidden,
                                          .residual = rows});
    layer_norm(&layer->output_norm, bert->epsilon, a->sums, rows, count, hidden);
}

static void run_layer(const struct bert *bert, const struct layer *layer, const int32_t *lengths, int texts,
                      int tokens, int first_only, const struct activations *a) {
    const size_t hidden = bert->hidden;
    int height = even_split(tokens, CHUNK_ROWS);
    for (int row = 0; row < tokens; row += height)
        apply_linear(bert, a, (struct product){.linear = &layer->query_key_value,
                                              .rows = min_int(height, tokens - row),
                                              .input = a->rows + row * hidden,
                                              .input_stride = hidden,
                                              .output = a->query_key_value + row * 3 * hidden,
                                              .output_stride = 3 * hidden});
    attend(bert, lengths, texts, first_only, a);
    if (first_only) {
        // Pooling reads only the first row of each text.
        for (int text = 0, row = 0; text < texts; row += lengths[text++])
            for (size_t i = 0; i < hidden; i += LANES)
                store(a->rows + text * hidden + i, load(a->rows + row * hidden + i));
        tokens = texts;
        height = even_split(tokens, CHUNK_ROWS);
    }
    for (int row = 0; row < tokens; row += height)
        after_attention(bert, layer, a->rows + row * hidden, a->context + row * hidden, min_int(height, tokens - row),
                        a);
}

// pooled[texts][hidden]. For the first row the last layer has left one row a text.
static void pool(const struct bert *bert, const int32_t *lengths, int texts, const float *rows, float *pooled) {
    const int hidden = bert->hidden;
    for (int text = 0; text < texts; text++, pooled += hidden) {
        const int count = bert->pooling == POOLING_FIRST ? 1 : lengths[text];
        const float divisor = bert->pooling == POOLING_MEAN        ? (float)count
                              : bert->pooling == POOLING_MEAN_SQRT ? __builtin_sqrtf(count)
                                                                   : 1.0f;
        for (int i = 0; i < hidden; i += LANES) {
            vec total = load(rows + i);
            for (int row = 1; row < count; row++) {
                const vec value = load(rows + (size_t)row * hidden + i);
                total = bert->pooling == POOLING_MAX ? max_lanes(total, value) : total + value;
            }
            store(pooled + i, total / divisor);
        }
        rows += (size_t)count * hidden;
    }
}

// From pooled rows to vectors.
static void project(const struct bert *bert, const float *pooled, int texts, float *vectors,
                    const struct activations *a) {
    const size_t hidden = bert->hidden, stride = whole_panels(bert->dense.out);
    const int height = even_split(texts, CHUNK_ROWS);
    for (int row = 0; row < texts; row += height)
        apply_linear(bert, a, (struct product){.linear = &bert->dense,
                                              .activation = bert->dense_activation,
                                              .rows = min_int(height, texts - row),
                                              .input = pooled + row * hidden,
                                              .input_stride = hidden,
                                              .output = vectors + row * stride,
                                              .output_stride = stride});
}

void bert_forward(const struct bert *bert, const int32_t *ids, const int32_t *lengths, int32_t texts, float *scratch,
                  float *vectors, struct helper *helper) {
    int tokens = 0;
    for (int text = 0; text < texts; text++) tokens += lengths[text];
    struct activations a = divide_scratch(bert, scratch, tokens);
    a.helper = helper;
    embed(bert, ids, lengths, texts, a.rows);
    for (int i = 0; i < bert->layers; i++) {
        const int first_only = i == bert->layers - 1 && bert->pooling == POOLING_FIRST;
        run_layer(bert, &bert->layer[i], lengths, texts, tokens, first_only, &a);
    }
    const int has_dense = bert->dense.out > 0;
    float *pooled = has_dense ? a.context : vectors;
    pool(bert, lengths, texts, a.rows, pooled);
    if (has_dense) project(bert, pooled, texts, vectors, &a);
}
