/* What the two halves of the model share: memory and calls (shm_model.c), steps and search (shm_model_search.c). */
#ifndef SIRA_TEST_SHM_MODEL_INSIDE_H
#define SIRA_TEST_SHM_MODEL_INSIDE_H

#include "shm_model.h"

#include <setjmp.h>

enum { LOG_MAX = 512, BUFFER_MAX = 64, UNDO_MAX = 1 << 16, CHUNKS_MAX = 8, MEMORY_MAX = 64 << 10 };

enum op_kind { LOAD, STORE, SWAP, OR, AND, CAS, WORDS_IN, WORDS_OUT, RING, WAIT, ASK_DEAD, VIEW, RELEASE, DONE };
struct op {
    enum op_kind kind;
    uint64_t *at;
    uint64_t a, b;
    uint64_t words[8];
    uint32_t count;
};
struct buffered { uint64_t *at, value; };
struct side_state {
    uint64_t log[LOG_MAX];
    uint32_t logged, replayed;
    uint64_t hash;               /* of the log: stands for all that the script knows */
    struct op next;
    struct buffered buffer[BUFFER_MAX];
    uint32_t first, end;         /* entries of the buffer; indices only grow along a path */
    bool is_dead;
};
struct ghost {
    uint64_t posted, taken, withdrawn;
    uint32_t bells[SIDES];
    uint8_t views[CHUNKS_MAX], released[CHUNKS_MAX];
};


extern uint64_t memory[MEMORY_MAX / 8];
extern struct side_state sides[SIDES];
extern struct ghost ghost;
extern const struct scenario *scenario;
extern struct sira_link link_of;
extern struct side_state *running; /* NULL: memory is used as it is */
extern jmp_buf leave;
extern const char *wrong;
extern uint64_t memory_hash;
extern uint32_t undo_count;
extern uint64_t *held_at;          /* a store that a mutation puts off */

static uint64_t mix(uint64_t h, uint64_t value)
{
    h = (h ^ value) * UINT64_C(0x9e3779b97f4a7c15);
    h ^= h >> 29;
    h *= UINT64_C(0xbf58476d1ce4e5b9);
    return h ^ h >> 32;
}

/* Change a word of memory; what is undone when the search steps back to `to`, an earlier undo_count. */
void commit(uint64_t *at, uint64_t value);
void roll_back(uint32_t to);
/* Of one side: its own buffer first, then memory; into its buffer. */
uint64_t load(const struct side_state *side, const uint64_t *at);
void store(struct side_state *side, uint64_t *at, uint64_t value);

#endif
