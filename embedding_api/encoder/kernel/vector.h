// Vectors of float32 as wide as the instruction set's registers, in the vector extensions of Clang and GCC.
//
// The words of these files: a lane is one number of a vector. A row is the activations of a token. A product multiplies
// rows with weights; its depth is the number of terms in each sum. A panel is PANEL columns of weights, a tile the sums
// of some rows and one panel. A stride is how many elements the next row begins behind this one.
//
//              panel  panel  panel
//      depth | weights              weights[depth][columns]
//            +------+------+------
//      rows  | tile | tile | tile   sums[rows][columns] = rows[rows][depth] x weights
//      rows  | tile | tile | tile
#pragma once

#include <stddef.h>
#include <stdint.h>

// A micro-kernel computes a tile of TILE_ROWS x PANEL sums, all of them in registers. Beside them there must be room
// for a row of weights and one activation: 12 x 2 + 2 + 1 of AVX-512's 32 registers, 6 x 2 + 2 + 1 of AVX2's 16,
// 6 x 4 + 4 + 1 of NEON's 32.
#if defined __AVX512F__
enum { LANES = 16, TILE_ROWS = 12, PANEL_VECTORS = 2 };
#elif defined __AVX2__ && defined __FMA__
enum { LANES = 8, TILE_ROWS = 6, PANEL_VECTORS = 2 };
#elif defined __ARM_NEON
enum { LANES = 4, TILE_ROWS = 6, PANEL_VECTORS = 4 };
#else
#error "the kernel needs AVX-512, AVX2 with FMA, or NEON"
#endif

// Columns of a panel: the unit in which weights, keys and values are multiplied.
enum { PANEL = LANES * PANEL_VECTORS };

// In bytes. A vector that begins at a multiple of it is loaded and stored fastest.
enum { CACHE_LINE = 64 };

#define INLINE static inline __attribute__((always_inline))

// Columns rounded up to whole panels.
INLINE int whole_panels(int columns) { return (columns + PANEL - 1) / PANEL * PANEL; }

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float vec_in_memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
// Two values in bfloat16.
typedef int32_t word_in_memory __attribute__((aligned(2), may_alias));
typedef int32_t ivec_in_memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *from) { return *(const vec_in_memory *)from; }

INLINE ivec load_words(const int32_t *from) { return *(const ivec_in_memory *)from; }

INLINE void store(float *to, vec values) { *(vec_in_memory *)to = values; }

// All lanes are `value`. x - 0 is x for every x, so compilers drop the subtraction; x + 0 is not x for -0.
INLINE vec splat(float value) { return value - (vec){0}; }

// The sum of all lanes, by halves.
INLINE float sum_of_lanes(vec values) {
    float lanes[LANES];
    store(lanes, values);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}

// a where the mask's lane is -1, b where it is 0.
INLINE vec select_lanes(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }

// The larger one of each lane; b where one of the two is NaN.
INLINE vec max_lanes(vec a, vec b) { return select_lanes(a > b, a, b); }

// The largest of all lanes.
INLINE float max_of_lanes(vec values) {
    float lanes[LANES];
    store(lanes, values);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
    return lanes[0];
}

// e^x for x <= 0, with a relative error of 1e-7; below -87 it stays at e^-87, some 1e-38. Of NaN it is NaN.
// x = n ln 2 + r, so e^x = 2^n e^r. The split of ln 2 and the polynomial are those of expf in Cephes
// (https://www.netlib.org/cephes).
INLINE vec exp_of_negative(vec x) {
    x = max_lanes(splat(-87.0f), x);
    // 1.5 * 2^23 + n has no bits for a fraction: the addition rounds, and the lowest bits hold n.
    vec shifted = x * 1.44269504088896341f + 0x1.8p23f;
    vec n = shifted - 0x1.8p23f;
    vec r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + (r + 1.0f);
    // The exponent of a float32 begins at bit 23.
    return (vec)((ivec)p + ((ivec)shifted << 23));
}

// x (1 + erf(x / sqrt 2)) / 2, the exact GELU (https://arxiv.org/abs/1606.08415). erf is formula 7.1.26 of Abramowitz
// and Stegun's Handbook of Mathematical Functions, with an error of at most 1.5e-7.
INLINE vec gelu(vec x) {
    vec z = x * 0.70710678118654752f;
    ivec sign = (ivec)z & INT32_MIN;
    vec magnitude = (vec)((ivec)z ^ sign);
    vec t = 1.0f / (magnitude * 0.3275911f + 1.0f);
    vec p = splat(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vec erf = 1.0f - (p * t) * exp_of_negative(magnitude * -magnitude);
    vec half = x * 0.5f;
    return half * (vec)((ivec)erf ^ sign) + half;
}

// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, the approximation of GELU in the same paper. (1 + tanh u) / 2 is
// 1 / (1 + e^-2u), and for negative u e^2u / (1 + e^2u): so there is no power that is too large.
INLINE vec gelu_tanh(vec x) {
    vec u = (x + x * x * x * 0.044715f) * 0.79788456080286536f;
    vec power = exp_of_negative((vec)((ivec)u | INT32_MIN) * 2.0f);
    return x * select_lanes(u < (vec){0}, power, splat(1.0f)) / (power + 1.0f);
}

INLINE vec relu(vec x) { return max_lanes((vec){0}, x); }

// tanh x, with a relative error of 3e-7. The bound between its two formulas and the polynomial are those of tanhf in
// Cephes.
INLINE vec tanh_lanes(vec x) {
    ivec sign = (ivec)x & INT32_MIN;
    vec magnitude = (vec)((ivec)x ^ sign);
    vec power = exp_of_negative(magnitude * -2.0f);
    vec large = (vec)((ivec)((1.0f - power) / (1.0f + power)) ^ sign);
    vec square = x * x;
    vec p = splat(-5.70498872745e-3f);
    p = p * square + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    return select_lanes(magnitude < splat(0.625f), p * square * x + x, large);
}
