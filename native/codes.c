/* See codes.h. */
#include "codes.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { CODE_MAX = 127 };
#define NOTHING 1e-30f /* of so little no scale can be made; vectors are of length 1 */

float sira_codes_of(const float *vector, size_t dims, int8_t *codes)
{
    float most = 0;
    for (size_t i = 0; i < dims; i++) most = fmaxf(most, fabsf(vector[i]));
    if (!(most > NOTHING)) {
        memset(codes, 0, dims);
        return 0;
    }
    const float per_code = (float)CODE_MAX / most;
    for (size_t i = 0; i < dims; i++) codes[i] = (int8_t)lrintf(vector[i] * per_code);
    return most / (float)CODE_MAX;
}

static void products_of(const int8_t *codes, size_t rows, size_t dims, const int16_t *query, int32_t *products)
{
    for (size_t row = 0; row < rows; row++, codes += dims) {
        int32_t sum = 0;
        for (size_t i = 0; i < dims; i++) sum += codes[i] * query[i];
        products[row] = sum;
    }
}

#if defined(__x86_64__)
/* The same, 32 at a time: what a compiler makes of the loop above takes five times as long. */
__attribute__((target("avx2"))) static void products_avx2(const int8_t *codes, size_t rows, size_t dims,
                                                          const int16_t *query, int32_t *products)
{
    enum { STEP = 32 };
    const size_t whole = dims - dims % STEP;
    for (size_t row = 0; row < rows; row++, codes += dims) {
        __m256i first = _mm256_setzero_si256(), second = first;
        for (size_t i = 0; i < whole; i += STEP) {
            const __m256i a = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(codes + i)));
            const __m256i b = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(codes + i + STEP / 2)));
            first = _mm256_add_epi32(first, _mm256_madd_epi16(a, _mm256_loadu_si256((const __m256i *)(query + i))));
            second = _mm256_add_epi32(
                second, _mm256_madd_epi16(b, _mm256_loadu_si256((const __m256i *)(query + i + STEP / 2))));
        }
        int32_t parts[8], sum = 0;
        _mm256_storeu_si256((__m256i *)parts, _mm256_add_epi32(first, second));
        for (int i = 0; i < 8; i++) sum += parts[i];
        for (size_t i = whole; i < dims; i++) sum += codes[i] * query[i];
        products[row] = sum;
    }
}
#endif

void sira_codes_products(const int8_t *codes, size_t rows, size_t dims, const int16_t *query, int32_t *products)
{
    assert(dims <= SIRA_CODES_DIMS_MAX);
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        products_avx2(codes, rows, dims, query, products);
        return;
    }
#endif
    products_of(codes, rows, dims, query, products);
}
