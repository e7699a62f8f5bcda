/* Vectors as bits: a 32nd of the memory to read, to find which few are worth an exact look. Pure C.
 *
 * A vector is turned (random signs, then a Hadamard transform), so that every coordinate says something of all of it,
 * and one bit of each is kept: whether it is positive. A request keeps four bits of each. After RaBitQ (Gao and Long,
 * SIGMOD 2024), without its correction by row, which changed nothing here. */
#ifndef SIRA_CODES_H
#define SIRA_CODES_H

#include <stddef.h>
#include <stdint.h>

enum {
    SIRA_CODE_PLANES = 4,
    SIRA_CODE_BITS_MAX = 4096, /* of more dims the first so many coordinates are coded: distances fit into 16 bits */
    SIRA_CODES_DIMS_MAX = 1 << 16,
};

/* Words of 64 bits in the code of a vector: of its dims, rounded up to a power of two. dims <= SIRA_CODES_DIMS_MAX. */
size_t sira_codes_words(size_t dims);
/* Floats of room that coding a vector takes. */
size_t sira_codes_room(size_t dims);

/* Write the code of a vector, [words]. Values are finite; `room` is written. */
void sira_codes_of(const float *vector, size_t dims, float *room, uint64_t *code);
/* Write the planes of a request, [SIRA_CODE_PLANES][words], the least bit first. */
void sira_codes_planes(const float *vector, size_t dims, float *room, uint64_t *planes);

/* Write how far each of `rows` codes is from a request: the smaller, the larger their product, nearly. At most
 * 15 * 64 * words. Requires: 64 * words <= SIRA_CODE_BITS_MAX. */
void sira_codes_distances(const uint64_t *codes, size_t rows, size_t words, const uint64_t *planes,
                          uint16_t *distances);

/* The sum of products of two vectors. The same for the same values, wherever they lie. */
float sira_product(const float *a, const float *b, size_t dims);

#endif
