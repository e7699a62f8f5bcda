/* Vectors as bytes: a quarter of the memory to read, to find which few are worth an exact look. Pure C. */
#ifndef SIRA_CODES_H
#define SIRA_CODES_H

#include <stddef.h>
#include <stdint.h>

/* Write vector / scale, rounded to -127 to 127; returns the scale, 0 where all are (nearly) 0. Values are finite. */
float sira_codes_of(const float *vector, size_t dims, int8_t *codes);

enum { SIRA_CODES_DIMS_MAX = 1 << 16 }; /* no sum of so many products overflows */

/* Write the product of `query`, codes too, with each of `rows` rows of `codes`. Requires: dims <= SIRA_CODES_DIMS_MAX. */
void sira_codes_products(const int8_t *codes, size_t rows, size_t dims, const int16_t *query, int32_t *products);

#endif
