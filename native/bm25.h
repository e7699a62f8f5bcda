/* Who has which term, and how well a request fits each: Okapi BM25 over entries that come and go. Pure C, no lock.
 *
 * An entry stands in a slot of the caller's choice, small numbers without wide gaps. registry/lexical.py says what the
 * formula is and why. */
#ifndef SIRA_BM25_H
#define SIRA_BM25_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sira_bm25;

struct sira_weighed_term {
    uint64_t term;
    float weight;
};

/* `seed` spreads the terms, so that nobody can choose ones that meet. NULL: no memory. */
struct sira_bm25 *sira_bm25_new(uint64_t seed);
void sira_bm25_free(struct sira_bm25 *bm25); /* NULL is allowed */

/* Sort terms, add up those that are the same. Returns how many are left. */
size_t sira_terms_unique(struct sira_weighed_term *terms, size_t count);

/* Hold an entry. Requires: nothing stands in `slot`; slot < UINT32_MAX; terms as sira_terms_unique leaves them,
 * count < UINT32_MAX. Ensures: false -> no memory, and nothing has changed. */
bool sira_bm25_put(struct sira_bm25 *bm25, uint32_t slot, const struct sira_weighed_term *terms, size_t count);
/* Forget it. False: nothing stood there. */
bool sira_bm25_drop(struct sira_bm25 *bm25, uint32_t slot);

size_t sira_bm25_count(const struct sira_bm25 *bm25);            /* of entries */
size_t sira_bm25_slots(const struct sira_bm25 *bm25);            /* one more than the largest there ever was */
uint32_t sira_bm25_have(const struct sira_bm25 *bm25, uint64_t term); /* how many entries have it */
bool sira_bm25_has(const struct sira_bm25 *bm25, uint32_t slot, uint64_t term);

/* Add to `scores`, which has sira_bm25_slots() entries, how well each fits. Terms as sira_terms_unique leaves them. */
void sira_bm25_scores(const struct sira_bm25 *bm25, const struct sira_weighed_term *terms, size_t count, float k1,
                      float b, float *scores);

#endif
