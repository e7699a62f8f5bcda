/* See codes.h. */
#include "codes.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { WORD_BITS = 64, STEP_512 = 512 / WORD_BITS };

static size_t size_of(size_t dims)
{
    size_t size = WORD_BITS;
    while (size < dims) size *= 2;
    return size;
}

size_t sira_codes_words(size_t dims)
{
    const size_t size = size_of(dims);
    return (size < SIRA_CODE_BITS_MAX ? size : SIRA_CODE_BITS_MAX) / WORD_BITS;
}

size_t sira_codes_room(size_t dims)
{
    return size_of(dims);
}

/* Write a vector to `out`, [size_of(dims)]: half of its values with another sign, then a Walsh-Hadamard transform. */
static void turn(const float *vector, size_t dims, float *out)
{
    assert(dims <= SIRA_CODES_DIMS_MAX);
    const size_t size = size_of(dims);
    uint64_t signs = 0;
    for (size_t i = 0; i < dims; i++) {
        if (i % WORD_BITS == 0) { /* the finaliser of SplitMix64 (Steele et al., 2014) */
            signs = (i + 1) * 0x9E3779B97F4A7C15u;
            signs = (signs ^ signs >> 30) * 0xBF58476D1CE4E5B9u;
            signs = (signs ^ signs >> 27) * 0x94D049BB133111EBu;
            signs ^= signs >> 31;
        }
        out[i] = signs >> i % WORD_BITS & 1 ? -vector[i] : vector[i];
    }
    memset(out + dims, 0, (size - dims) * sizeof *out);
    for (size_t half = 1; half < size; half *= 2)
        for (size_t start = 0; start < size; start += 2 * half)
            for (size_t i = start; i < start + half; i++) {
                const float a = out[i], b = out[i + half];
                out[i] = a + b;
                out[i + half] = a - b;
            }
}

void sira_codes_of(const float *vector, size_t dims, float *room, uint64_t *code)
{
    const size_t words = sira_codes_words(dims);
    turn(vector, dims, room);
    for (size_t word = 0; word < words; word++) {
        code[word] = 0;
        for (size_t bit = 0; bit < WORD_BITS; bit++)
            code[word] |= (uint64_t)(room[word * WORD_BITS + bit] > 0) << bit;
    }
}

void sira_codes_planes(const float *vector, size_t dims, float *room, uint64_t *planes)
{
    enum { LEVEL_MAX = (1 << SIRA_CODE_PLANES) - 1 };
    const size_t words = sira_codes_words(dims);
    float most = 0;
    turn(vector, dims, room);
    for (size_t i = 0; i < words * WORD_BITS; i++) most = fmaxf(most, fabsf(room[i]));
    const float per_value = most > 0 ? LEVEL_MAX / (2 * most) : 0;
    memset(planes, 0, SIRA_CODE_PLANES * words * sizeof *planes);
    for (size_t i = 0; i < words * WORD_BITS; i++) {
        /* Level n stands for 2n - LEVEL_MAX: each plane adds or takes off its power of two. */
        const float level = room[i] * per_value + (float)LEVEL_MAX / 2;
        const uint64_t near = (uint64_t)lrintf(fminf(fmaxf(level, 0), LEVEL_MAX));
        for (size_t plane = 0; plane < SIRA_CODE_PLANES; plane++)
            planes[plane * words + i / WORD_BITS] |= (near >> plane & 1) << i % WORD_BITS;
    }
}

/* ---- distances: one loop, compiled for what processors count bits with ------------------------------------------- */
#if defined(__GNUC__)
#define EVERYWHERE static inline __attribute__((always_inline))
#else
#define EVERYWHERE static inline
#endif

EVERYWHERE void distances_of(const uint64_t *codes, size_t rows, size_t words, const uint64_t *planes,
                             uint16_t *distances)
{
    for (size_t row = 0; row < rows; row++, codes += words) {
        uint64_t sum = 0;
        for (size_t i = 0; i < words; i++) {
            const uint64_t code = codes[i];
            sum += (uint64_t)__builtin_popcountll(code ^ planes[i])
                   + 2 * (uint64_t)__builtin_popcountll(code ^ planes[words + i])
                   + 4 * (uint64_t)__builtin_popcountll(code ^ planes[2 * words + i])
                   + 8 * (uint64_t)__builtin_popcountll(code ^ planes[3 * words + i]);
        }
        distances[row] = (uint16_t)sum;
    }
}

EVERYWHERE float product_of(const float *a, const float *b, size_t dims)
{
    enum { LANES = 32 };
    float sums[LANES] = {0}, sum = 0;
    size_t i = 0;
    for (; i + LANES <= dims; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++) sums[lane] += a[i + lane] * b[i + lane];
    for (; i < dims; i++) sum += a[i] * b[i];
    for (size_t lane = 0; lane < LANES; lane++) sum += sums[lane];
    return sum;
}

#if defined(__x86_64__)
__attribute__((target("popcnt"))) static void distances_popcnt(const uint64_t *codes, size_t rows, size_t words,
                                                               const uint64_t *planes, uint16_t *distances)
{
    distances_of(codes, rows, words, planes, distances);
}

/* The same, eight words at a time: compilers make nothing like it of the loop above. Requires: words % 8 == 0. */
__attribute__((target("avx512f,avx512vpopcntdq"))) static void
distances_avx512(const uint64_t *codes, size_t rows, size_t words, const uint64_t *planes, uint16_t *distances)
{
    for (size_t row = 0; row < rows; row++, codes += words) {
        __m512i sum = _mm512_setzero_si512();
        for (size_t i = 0; i < words; i += STEP_512) {
            const __m512i code = _mm512_loadu_si512(codes + i);
            __m512i of_step = _mm512_setzero_si512();
            for (size_t plane = SIRA_CODE_PLANES; plane-- > 0;) {
                const __m512i other = _mm512_xor_si512(code, _mm512_loadu_si512(planes + plane * words + i));
                of_step = _mm512_add_epi64(_mm512_add_epi64(of_step, of_step), _mm512_popcnt_epi64(other));
            }
            sum = _mm512_add_epi64(sum, of_step);
        }
        distances[row] = (uint16_t)_mm512_reduce_add_epi64(sum);
    }
}

__attribute__((target("avx2"))) static float product_avx2(const float *a, const float *b, size_t dims)
{
    return product_of(a, b, dims);
}
#endif

void sira_codes_distances(const uint64_t *codes, size_t rows, size_t words, const uint64_t *planes,
                          uint16_t *distances)
{
    assert(words * WORD_BITS <= SIRA_CODE_BITS_MAX);
#if defined(__x86_64__)
    if (words % STEP_512 == 0 && __builtin_cpu_supports("avx512vpopcntdq")) {
        distances_avx512(codes, rows, words, planes, distances);
        return;
    }
    if (__builtin_cpu_supports("popcnt")) {
        distances_popcnt(codes, rows, words, planes, distances);
        return;
    }
#endif
    distances_of(codes, rows, words, planes, distances);
}

float sira_product(const float *a, const float *b, size_t dims)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) return product_avx2(a, b, dims);
#endif
    return product_of(a, b, dims);
}
