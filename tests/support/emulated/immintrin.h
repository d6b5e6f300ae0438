// The intrinsics of AVX-512 BF16 that the kernel uses, in plain C, for CPUs without them.
#pragma once

#include <stdint.h>
#include <string.h>

typedef float __m512 __attribute__((vector_size(64)));
typedef int32_t __m512i __attribute__((vector_size(64)));
typedef uint32_t words __attribute__((vector_size(64)));
typedef uint16_t __m512bh __attribute__((vector_size(64)));
typedef uint16_t __m256bh __attribute__((vector_size(32)));
typedef int64_t __m256i __attribute__((vector_size(32)));

#define INTRINSIC static inline __attribute__((always_inline))

INTRINSIC __m512i _mm512_set1_epi32(int32_t value) { return value - (__m512i){0}; }

INTRINSIC __m512 _mm512_dpbf16_ps(__m512 sums, __m512bh a, __m512bh b) {
    sums += (__m512)((words)a & 0xffff0000) * (__m512)((words)b & 0xffff0000);
    return sums + (__m512)((words)a << 16) * (__m512)((words)b << 16);
}

// To the nearest, and to the even one of two that are as near.
INTRINSIC __m256bh _mm512_cvtneps_pbh(__m512 values) {
    const words bits = (words)values;
    return __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, __m256bh);
}

INTRINSIC void _mm256_storeu_si256(__m256i *to, __m256i values) { memcpy(to, &values, sizeof values); }
