/* Inside contract*.c only: words about contracts, written into a buffer of the caller. */
#ifndef SIRA_CONTRACT_H
#define SIRA_CONTRACT_H

#include "wire.h"

/* Text that ends where its room ends, always at a whole UTF-8 character and with a NUL. */
struct sira_words {
    char *at, *end; /* end: the last byte of the room, kept for the NUL */
};

/* Requires: len > 0. */
struct sira_words sira_words_start(char *out, size_t len);
void sira_words_text(struct sira_words *words, const char *text);
void sira_words_number(struct sira_words *words, uint64_t number);
/* A tensor's name in quotes, at most 40 bytes of it, control characters as '?'. */
void sira_words_name(struct sira_words *words, const uint8_t *name, size_t len);
/* f32|bf16[B, H<=4096, 3] */
void sira_words_wanted(struct sira_words *words, const struct sira_contract *contract,
                       const struct sira_contract_tensor *tensor);

enum { SIRA_DIM_FIXED, SIRA_DIM_VAR, SIRA_DIM_BOUNDED, SIRA_DIM_ANY }; /* sira_contract_dim.kind */

#define SIRA_BODY_DTYPES (UINT64_C(1) << SIRA_DT_BYTES | UINT64_C(1) << SIRA_DT_UTF8)

#endif
