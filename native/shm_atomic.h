/* The few ways in which the shared-memory lane touches memory that another process touches too.
 *
 * Every shared word is 64 bits. Nothing else in shm_*.c reads or writes one, so the model checker
 * (tests/shm_model_test.c) can put its own steps in the place of these and run the very same protocol code.
 *
 * Order: a store releases; loads, and what changes a word (swap, or, and, compare-and-swap), are sequentially consistent:
 * on x86 the latter drain the store buffer. The protocol leans on that where a flag "I sleep" meets a bit "there is
 * something": each side changes its own word with a swap or an or, and only then loads the other's. */
#ifndef SIRA_SHM_ATOMIC_H
#define SIRA_SHM_ATOMIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(SIRA_MODEL)

uint64_t sira_word_load(const uint64_t *word);
void sira_word_store(uint64_t *word, uint64_t value);
uint64_t sira_word_swap(uint64_t *word, uint64_t value);
uint64_t sira_word_or(uint64_t *word, uint64_t bits);
uint64_t sira_word_and(uint64_t *word, uint64_t bits);
bool sira_word_cas(uint64_t *word, uint64_t expected, uint64_t value);
void sira_words_in(uint64_t *shared, const uint64_t *from, size_t count);
void sira_words_out(uint64_t *to, const uint64_t *shared, size_t count);
void sira_bytes_in(void *shared, const void *from, size_t len);
void sira_bytes_out(void *to, const void *shared, size_t len);

#else

static inline uint64_t sira_word_load(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_SEQ_CST); /* on x86 a plain load */
}

static inline void sira_word_store(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* Write `value`, return what was there. */
static inline uint64_t sira_word_swap(uint64_t *word, uint64_t value)
{
    return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST);
}

/* Set `bits`, return what was there. */
static inline uint64_t sira_word_or(uint64_t *word, uint64_t bits)
{
    return __atomic_fetch_or(word, bits, __ATOMIC_SEQ_CST);
}

/* Leave `bits` alone, return what was there. */
static inline uint64_t sira_word_and(uint64_t *word, uint64_t bits)
{
    return __atomic_fetch_and(word, bits, __ATOMIC_SEQ_CST);
}

/* true: it was `expected` and is `value` now. */
static inline bool sira_word_cas(uint64_t *word, uint64_t expected, uint64_t value)
{
    return __atomic_compare_exchange_n(word, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Words into and out of shared memory, each whole but not all at once. The other side may write meanwhile: what came
 * out is used only after a compare-and-swap has shown that its owner left it alone, and only from the private copy. */
static inline void sira_words_in(uint64_t *shared, const uint64_t *from, size_t count)
{
    for (size_t i = 0; i < count; i++) __atomic_store_n(&shared[i], from[i], __ATOMIC_RELAXED);
}

static inline void sira_words_out(uint64_t *to, const uint64_t *shared, size_t count)
{
    for (size_t i = 0; i < count; i++) to[i] = __atomic_load_n(&shared[i], __ATOMIC_RELAXED);
}

/* The same for bytes, of which none is whole. */
static inline void sira_bytes_in(void *shared, const void *from, size_t len)
{
    memcpy(shared, from, len);
}

static inline void sira_bytes_out(void *to, const void *shared, size_t len)
{
    memcpy(to, shared, len);
}

#endif

#endif
