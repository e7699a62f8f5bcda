/* Words of a text, their stems, and what a search makes of them: hashed features and hashed terms. Pure C, no lock.
 *
 * registry/embed/features.py says what a feature is and owns its version; what is here must give the same, byte for
 * byte (tests/unit/registry/test_words_native.py holds a plain Python twin beside it). Words are UTF-8, lower case, of
 * one script each, as `features.words` gives them; a text of ASCII alone is split here. */
#ifndef SIRA_WORDS_H
#define SIRA_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SIRA_WORD_CHARS_MAX = 32,    /* a longer run is no word: its beginning stands for it */
    SIRA_TEXT_CHARS_MAX = 8192,  /* of a text; what is beyond is not looked at */
    SIRA_WORD_BYTES_MAX = 4 * SIRA_WORD_CHARS_MAX,
    SIRA_PLACES = 1 << 18,
};

struct sira_word {
    const uint8_t *data;
    size_t len; /* 1 to SIRA_WORD_BYTES_MAX */
};

/* Call once before anything else here; not from two threads at once. */
void sira_words_begin(void);

/* Split ASCII: `lower` has room for `len` bytes and must outlive `words`, which has room for `len` entries.
 * Requires: len <= SIRA_TEXT_CHARS_MAX. Returns how many words there are. */
size_t sira_words_split(const uint8_t *text, size_t len, uint8_t *lower, struct sira_word *words);

/* Whether a word says nothing of what is wanted: a function word of English. */
bool sira_word_is_stop(struct sira_word word);

/* Write a word without its ending; `out` has room for SIRA_WORD_BYTES_MAX bytes. Returns its length, 1 or more. */
size_t sira_word_stem(struct sira_word word, uint8_t *out);

/* How many places `sira_words_places` writes at most. */
size_t sira_words_places_max(const struct sira_word *words, size_t count);

/* Write the place of each feature of a text, in no order, one more than once: of a word its stem and, unless it is a
 * function word, its n-grams of 3 to 5 characters; of two words side by side their stems. Returns how many. */
size_t sira_words_places(const struct sira_word *words, size_t count, uint32_t *places);

/* Sort places, leave one of each, and count: `counts` and `spare` have room for `count`. Returns how many are left. */
size_t sira_places_unique(uint32_t *places, size_t count, uint32_t *counts, uint32_t *spare);

/* A term's number: of a stem, and of two side by side. Two different ones meet once in 2^64. */
uint64_t sira_term_of_stem(const uint8_t *stem, size_t len);
uint64_t sira_term_of_pair(uint64_t first, uint64_t second);

#endif
