// Runs the kernel where Python cannot: with a sanitizer, or as a program for another CPU.
//
// Standard input has a struct header; the model's arrays in the order in which the structs below read them, each behind
// its size in bytes, an int64; and batches: the number of texts, their lengths and their token ids, all of them int32.
// The vectors go to standard output. Called with "helper", a second thread takes part; called with "panel", it only
// prints the columns of a panel.
//
// All memory is allocated in exactly the size that the kernel is to stay within. Memory that it may only write is full
// of NaNs beforehand, so that reading from it shows in the vectors.
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bert.h"

struct header {
    int32_t hidden, heads, layers, padding, max_length, bfloat16, activation, pooling, dense_activation;
    int32_t has_bias, intermediate, dense, batches;  // `dense` is the columns of that product, or 0
    float epsilon;
};

static void *allocate(size_t bytes) {
    void *memory = malloc(bytes);
    if (!memory) exit(EXIT_FAILURE);
    return memset(memory, 0xff, bytes);
}

static void *read_bytes(size_t bytes) {
    void *memory = allocate(bytes);
    if (fread(memory, 1, bytes, stdin) != bytes) exit(EXIT_FAILURE);
    return memory;
}

static int32_t read_number(void) {
    int32_t *number = read_bytes(sizeof *number), value = *number;
    free(number);
    return value;
}

static void *read_array(void) {
    int64_t *bytes = read_bytes(sizeof *bytes);
    void *array = read_bytes(*bytes);
    free(bytes);
    return array;
}

static struct linear read_linear(int32_t in, int32_t out) {
    struct linear linear = {.in = in, .out = out};
    linear.panels = read_array();
    linear.bias = read_array();
    return linear;
}

static struct layer_norm read_norm(void) {
    struct layer_norm norm;
    norm.weight = read_array();
    norm.bias = read_array();
    return norm;
}

static struct layer read_layer(const struct header *header) {
    struct layer layer;
    layer.query_key_value = read_linear(header->hidden, 3 * header->hidden);
    layer.attention_output = read_linear(header->hidden, header->hidden);
    layer.intermediate = read_linear(header->hidden, header->intermediate);
    layer.output = read_linear(header->intermediate, header->hidden);
    layer.attention_norm = read_norm();
    layer.output_norm = read_norm();
    return layer;
}

static struct bert read_bert(const struct header *header) {
    struct bert bert = {.hidden = header->hidden, .heads = header->heads, .layers = header->layers,
                        .padding = header->padding, .max_length = header->max_length, .bfloat16 = header->bfloat16,
                        .activation = header->activation, .pooling = header->pooling,
                        .dense_activation = header->dense_activation, .epsilon = header->epsilon};
    bert.words = read_array();
    bert.positions = read_array();
    if (header->has_bias) bert.attention_bias = read_array();
    bert.embedding_norm = read_norm();
    struct layer *layers = allocate(header->layers * sizeof *layers);
    for (int i = 0; i < header->layers; i++) layers[i] = read_layer(header);
    bert.layer = layers;
    if (header->dense) bert.dense = read_linear(header->hidden, header->dense);
    return bert;
}

static void *run_helper(void *helper) {
    help_with_products(helper);
    return NULL;
}

static struct helper *start_helper(void) {
    struct helper *helper = calloc(1, sizeof *helper);
    pthread_t thread;
    if (!helper) exit(EXIT_FAILURE);
    *helper = (struct helper){.active = 1, .yield = sched_yield};
    if (pthread_create(&thread, NULL, run_helper, helper)) exit(EXIT_FAILURE);
    return helper;
}

static void run_batch(const struct bert *bert, struct helper *helper) {
    const int32_t texts = read_number();
    int32_t *lengths = read_bytes(texts * sizeof *lengths), tokens = 0, longest = 0;
    for (int text = 0; text < texts; text++) {
        tokens += lengths[text];
        longest = lengths[text] > longest ? lengths[text] : longest;
    }
    int32_t *ids = read_bytes(tokens * sizeof *ids);
    float *scratch = allocate(bert_scratch(bert, tokens, longest) * sizeof *scratch);
    const size_t floats = (size_t)texts * whole_panels(bert->dense.out ? bert->dense.out : bert->hidden);
    float *vectors = allocate(floats * sizeof *vectors);
    // Until the helper has taken part.
    const uint32_t before = helper ? __atomic_load_n(&helper->finished, __ATOMIC_ACQUIRE) : 0;
    do bert_forward(bert, ids, lengths, texts, scratch, vectors, helper);
    while (helper && __atomic_load_n(&helper->finished, __ATOMIC_ACQUIRE) == before);
    if (fwrite(vectors, sizeof *vectors, floats, stdout) != floats) exit(EXIT_FAILURE);
    free(vectors);
    free(scratch);
    free(ids);
    free(lengths);
}

int main(int arguments, char **argument) {
    const char *mode = arguments > 1 ? argument[1] : "";
    if (!strcmp(mode, "panel")) {
        printf("%d\n", bert_panel());
        return EXIT_SUCCESS;
    }
    const struct header *header = read_bytes(sizeof *header);
    const struct bert bert = read_bert(header);
    struct helper *helper = strcmp(mode, "helper") ? NULL : start_helper();
    for (int batch = 0; batch < header->batches; batch++) run_batch(&bert, helper);
    return EXIT_SUCCESS;
}
